//! Profiles of signals: mergeable summaries, pure functions over integers and floats.
