//! The broker contract, and the embedded broker: a durable log in one process.
