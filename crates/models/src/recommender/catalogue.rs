//! The products that can be recommended.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// A product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogueProduct {
    /// Its id.
    pub id: String,
    /// Its category.
    pub category: String,
    /// Whether it can be had.
    #[serde(default = "yes")]
    pub in_stock: bool,
    /// How often it was viewed, for its popularity.
    #[serde(default)]
    pub views: u64,
}

fn yes() -> bool {
    true
}

/// Products by place and by id.
#[derive(Clone, Debug)]
pub struct Catalogue {
    products: Vec<CatalogueProduct>,
    places: HashMap<String, u32>,
    categories: Vec<String>,
    category_numbers: HashMap<String, u32>,
    views: u64,
}

impl Catalogue {
    /// Takes products.
    ///
    /// # Errors
    /// [`ModelError::Format`] if there are none, or two have one id; `path` is named in it.
    pub fn try_new(products: Vec<CatalogueProduct>, path: &Path) -> Result<Self, ModelError> {
        let wrong = |place: String, found: &str, allowed: &str| ModelError::Format {
            path: path.to_owned(),
            place,
            found: found.to_owned(),
            allowed: allowed.to_owned(),
        };
        if products.is_empty() {
            return Err(wrong("lines".to_owned(), "none", "at least one product"));
        }
        let mut places = HashMap::with_capacity(products.len());
        for (place, product) in products.iter().enumerate() {
            if places.insert(product.id.clone(), place as u32).is_some() {
                return Err(wrong(format!("product {}", place + 1), "an id that was there before", "each id once"));
            }
        }
        let categories: BTreeSet<&str> = products.iter().map(|product| &*product.category).collect();
        let categories: Vec<String> = categories.into_iter().map(str::to_owned).collect();
        let category_numbers =
            categories.iter().enumerate().map(|(index, name)| (name.clone(), index as u32 + 1)).collect();
        let views = products.iter().map(|product| product.views).sum();
        Ok(Self { products, places, categories, category_numbers, views })
    }

    /// Reads JSON Lines of products.
    ///
    /// # Errors
    /// [`ModelError::Format`] for a line that is no product; otherwise as [`Catalogue::try_new`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ModelError> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let products = lines.map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| ModelError::Format {
                path: path.to_owned(),
                place: format!("line {}", number + 1),
                found: error.to_string(),
                allowed: "{\"id\", \"category\", \"in_stock\", \"views\"}".to_owned(),
            })
        });
        Self::try_new(products.collect::<Result<_, _>>()?, path)
    }

    /// Reads a file of JSON Lines.
    ///
    /// # Errors
    /// [`ModelError::Read`] if it cannot be read; otherwise as [`Catalogue::parse`].
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let read = fs::read_to_string(path);
        Self::parse(&read.map_err(|source| ModelError::Read { path: path.to_owned(), source })?, path)
    }

    /// Returns what tells its content from others.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for CatalogueProduct { id, category, in_stock, views } in &self.products {
            for text in [id, category] {
                hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
            hash.update(&[u8::from(*in_stock)]).update(&views.to_le_bytes());
        }
        hash.finalize().to_hex()[..16].to_owned()
    }

    /// Returns the products.
    #[must_use]
    pub fn products(&self) -> &[CatalogueProduct] {
        &self.products
    }

    /// Returns the names of the categories, in their order.
    #[must_use]
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// Finds a product.
    #[must_use]
    pub fn place(&self, id: &str) -> Option<usize> {
        self.places.get(id).map(|&place| place as usize)
    }

    /// Returns how surprising a product is: the bits of its share in all views, one view added to each.
    #[must_use]
    pub fn surprise(&self, place: usize) -> f64 {
        let all = self.views + self.products.len() as u64;
        (all as f64 / (self.products[place].views + 1) as f64).log2()
    }

    /// Returns the number of a product for the network, from 1; 0 if there is none.
    #[must_use]
    pub fn number(&self, id: &str) -> u32 {
        self.places.get(id).map_or(0, |place| place + 1)
    }

    /// Returns the number of a category for the network, from 1; 0 if there is none.
    #[must_use]
    pub fn category_number(&self, name: &str) -> u32 {
        self.category_numbers.get(name).copied().unwrap_or(0)
    }

    /// Returns the number of each product's category, as another catalogue numbers them.
    #[must_use]
    pub fn category_numbers(&self, numbering: &Self) -> Vec<u32> {
        self.products.iter().map(|product| numbering.category_number(&product.category)).collect()
    }
}
