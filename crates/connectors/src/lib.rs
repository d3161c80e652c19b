//! Sources and sinks: audio files, JSON lines, standard output.
