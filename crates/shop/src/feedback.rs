//! What customers do with what they were recommended, as lines of `feedback.v1`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Shop, people::customer_number};

/// From being shown a page to clicking on it, milliseconds.
const LOOKS: i64 = 8_000;

/// Why a line is no recommendation that a customer could look at.
#[derive(Debug, thiserror::Error)]
pub enum FeedbackError {
    /// It has another shape.
    #[error("found no recommendation with the name of its record, allowed are lines written with record_ids = true")]
    Shape(#[source] serde_json::Error),
    /// Nobody of this shop.
    #[error("user: found {found:?}, allowed are customers such as \"u-000017\"")]
    User {
        /// The user.
        found: String,
    },
    /// A time that no calendar has.
    #[error("time_ms: found {found}, allowed are milliseconds since 1970 in the years to 9999")]
    Time {
        /// The time.
        found: i64,
    },
}

#[derive(Deserialize)]
struct Line {
    record: String,
    user: String,
    time_ms: i64,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    product: String,
}

impl Shop {
    /// Lets a customer look at a line of recommendations, as the sinks `jsonl` and `stdout` write them with
    /// `record_ids = true`. Returns a `feedback.v1` if something is clicked; the same line gives the same answer.
    ///
    /// # Errors
    /// If the line is no such recommendation.
    pub fn feedback(&self, line: &str) -> Result<Option<Value>, FeedbackError> {
        let Line { record, user, time_ms, items } = serde_json::from_str(line).map_err(FeedbackError::Shape)?;
        let Some(number) = customer_number(&user) else { return Err(FeedbackError::User { found: user }) };
        let at = jiff::Timestamp::from_millisecond(time_ms.saturating_add(LOOKS));
        let at = at.map_err(|_| FeedbackError::Time { found: time_ms })?;
        let shown: Vec<&str> = items.iter().map(|item| item.product.as_str()).collect();
        let clicked = self.clicks(&self.customer(number), time_ms, &shown).contains(&true);
        Ok(clicked.then(|| json!({ "record": record, "at": at.to_string(), "kind": "clicked" })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;

    fn line(user: &str, products: &[&str]) -> String {
        let items: Vec<Value> = products.iter().map(|product| json!({ "product": product })).collect();
        json!({ "record": "recommend.recommender/0/7", "user": user, "time_ms": 1_000, "items": items }).to_string()
    }

    #[test]
    fn what_is_clicked_is_told_of_and_nothing_else() {
        let shop = Shop::new(Parameters::default());
        let all: Vec<&str> = shop.catalogue().products().iter().map(|product| &*product.id).collect();
        let told = shop.feedback(&line("u-000003", &all)).unwrap().unwrap();
        let expected =
            json!({ "record": "recommend.recommender/0/7", "at": "1970-01-01T00:00:09Z", "kind": "clicked" });
        assert_eq!(told, expected);
        assert_eq!(shop.feedback(&line("u-000003", &[])).unwrap(), None);
    }

    #[test]
    fn a_line_that_is_none_says_why() {
        let shop = Shop::new(Parameters::default());
        let said = |line: &str| shop.feedback(line).unwrap_err().to_string();
        assert!(said("{\"user\":\"u-000003\"}").contains("record_ids = true"));
        assert!(said(&line("ann", &[])).contains("user: found \"ann\""));
    }
}
