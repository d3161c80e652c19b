//! What a stage author sees: stages, payloads, signals, the emitter and the registry.
