//! The search stage.
mod catalogue;
mod index;
pub use catalogue::{Catalogue, CatalogueError, Problem, Product};
pub use index::{CatalogueIndex, Found, IndexError, Rules};
