//! From a TOML file to a validated, typed plan: the graph of a pipeline and its tests.
