//! Kinds by name.
