//! Features, networks, loading and training: the only user of candle.
