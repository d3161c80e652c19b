//! The search index: BM25 over title, category and description, in memory.
//!
//! A query is split into words, the words people wrap a spoken request in are dropped ("show me
//! the …"), and each word left is looked up by its stem ("jackets" finds "jacket") and, if that is
//! wanted, by the words of the catalogue close to it. A word is close as it is written or by its
//! stem: a mistake in an ending makes another stem ("waterang"), and an ending is no mistake
//! ("jakets"). A word counts where it counts most: in one field, and as one word.
//! `score(product) = Σ over words, max over fields f and words t near the word of
//! boost(f) · discount(t) · BM25(f, t)` (Robertson and Zaragoza 2009, eq. 3.15, with k1 = 1.2, b = 0.75).
//!
//! What always holds: a word near the one looked for counts at most a quarter of it, and never
//! more for being rarer. Equal scores are ordered by id, so a search has one result.

use std::collections::BTreeMap;

use tantivy::{
    DocId, Index, Score, Searcher, SegmentReader, TantivyDocument, Term,
    collector::TopDocs,
    directory::RamDirectory,
    query::{BooleanQuery, BoostQuery, DisjunctionMaxQuery, FuzzyTermQuery, Query, TermQuery},
    schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
    tokenizer::{
        AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, TextAnalyzer,
        TokenStream, TokenizerManager,
    },
};

use crate::catalogue::{Catalogue, Product};

/// What a word counts in each field.
const TITLE: Score = 3.0;
const CATEGORY: Score = 1.0;
const DESCRIPTION: Score = 0.5;

/// What a word one and two letters away counts of the word itself.
const DISCOUNT: [Score; 2] = [0.25, 0.125];
/// From how many letters on one or two of them may be wrong.
const FUZZY_FROM: [usize; 2] = [4, 8];

/// Words of a query beyond this many different ones are not looked at.
const MAX_WORDS: usize = 32;
/// What the writer's tables are made for; they grow.
const WRITER_BYTES: usize = 50_000_000;
/// Words longer than this many bytes are neither indexed nor searched for.
const MAX_WORD_BYTES: usize = 40;

/// The analyzers of what is indexed, by their names in the index.
const STEMS: &str = "stems";
const WORDS: &str = "words";

/// What spoken requests are wrapped in, and what says nothing about a product.
const STOP_WORDS: &[&str] = &[
    "a", "about", "all", "am", "an", "and", "any", "are", "as", "at", "be", "browse", "buy", "by", "can", "could", "d",
    "display", "do", "does", "find", "for", "from", "get", "give", "got", "have", "hello", "help", "hey", "hi", "i",
    "im", "in", "is", "it", "like", "list", "ll", "look", "looking", "m", "may", "me", "my", "need", "of", "on", "one",
    "or", "our", "please", "re", "s", "search", "see", "sell", "show", "some", "thank", "thanks", "that", "the",
    "them", "there", "these", "this", "those", "to", "us", "ve", "want", "wanted", "we", "what", "where", "which",
    "with", "would", "you", "your",
];

/// How words are matched and results cut off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Most results.
    pub top_k: usize,
    /// How many letters of a word may be wrong, 0 to 2; short words have fewer.
    pub edits: u8,
    /// Least score of a result.
    pub min_score: f32,
}

/// A product found, with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// The product.
    pub product: &'a Product,
    /// Its score, rounded to four decimals; above 0.
    pub score: f32,
}

/// The index itself is at fault: tantivy failed on memory of its own.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct IndexError(#[from] tantivy::TantivyError);

/// An index over a catalogue. The number of a document is the place of its product.
pub struct CatalogueIndex {
    products: Vec<Product>,
    searcher: Searcher,
    fields: Fields,
    /// Splits a text into words.
    splitter: TextAnalyzer,
    /// Splits a text into the stems of its words.
    stemmer: TextAnalyzer,
}

#[derive(Clone, Copy)]
struct Fields {
    title: Fuzzy,
    category: Fuzzy,
    /// Stems alone. Descriptions are prose: words near those of prose are chance hits.
    description: Field,
}

/// A field in which words near those of a query count.
#[derive(Clone, Copy)]
struct Fuzzy {
    /// What is counted.
    stems: Field,
    /// The words as they are written: only the list of them is used.
    words: Field,
}

impl CatalogueIndex {
    /// Builds the index of a catalogue.
    ///
    /// # Errors
    /// If tantivy fails, which only a lack of memory explains.
    pub fn build(catalogue: Catalogue) -> Result<Self, IndexError> {
        Self::of(catalogue.into_products())
    }

    /// Builds the index as it was before the newest products came: those with the greatest numbers at the end of
    /// their ids. `share` of the products is left out, 0 to 1.
    ///
    /// # Errors
    /// As [`CatalogueIndex::build`].
    pub fn without_newest(&self, share: f64) -> Result<Self, IndexError> {
        let number = |product: &Product| {
            let at = product.id.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            product.id[at..].parse::<u64>().unwrap_or(0)
        };
        let mut by_age: Vec<&Product> = self.products.iter().collect();
        by_age.sort_by_key(|product| number(product));
        by_age.truncate((by_age.len() as f64 * (1.0 - share)).round() as usize);
        // Equal scores are ordered by id.
        by_age.sort_by(|a, b| a.id.cmp(&b.id));
        Self::of(by_age.into_iter().cloned().collect())
    }

    fn of(products: Vec<Product>) -> Result<Self, IndexError> {
        let mut schema = Schema::builder();
        let text = |analyzer, option| {
            let indexing = TextFieldIndexing::default().set_tokenizer(analyzer).set_index_option(option);
            TextOptions::default().set_indexing_options(indexing)
        };
        let mut stems = |name| schema.add_text_field(name, text(STEMS, IndexRecordOption::WithFreqs));
        let [title, category, description] = ["title", "category", "description"].map(&mut stems);
        let mut words = |name| schema.add_text_field(name, text(WORDS, IndexRecordOption::Basic));
        let fields = Fields {
            title: Fuzzy { stems: title, words: words("title words") },
            category: Fuzzy { stems: category, words: words("category words") },
            description,
        };
        let words = || {
            TextAnalyzer::builder(SimpleTokenizer::default())
                .filter(RemoveLongFilter::limit(MAX_WORD_BYTES))
                .filter(LowerCaser)
                .filter(AsciiFoldingFilter)
        };
        let stemmer = words().filter(Stemmer::new(Language::English)).build();

        let splitter = words().build();
        let tokenizers = TokenizerManager::new();
        tokenizers.register(STEMS, stemmer.clone());
        tokenizers.register(WORDS, splitter.clone());
        // One segment, however large, written in the order of the products: a document's number is its product's place.
        let index = Index::builder().schema(schema.build()).tokenizers(tokenizers);
        let mut writer = index.single_segment_index_writer(RamDirectory::create(), WRITER_BYTES)?;
        for product in &products {
            let mut document = TantivyDocument::default();
            for (field, text) in [(fields.title, &product.title), (fields.category, &product.category)] {
                document.add_text(field.stems, text);
                document.add_text(field.words, text);
            }
            document.add_text(fields.description, &product.description);
            writer.add_document(document)?;
        }
        let searcher = writer.finalize()?.reader()?.searcher();
        Ok(Self { products, searcher, fields, splitter, stemmer })
    }

    /// Finds the products that fit a text best, best first. A text without a word that says
    /// anything finds nothing.
    ///
    /// # Errors
    /// If tantivy fails, which only a lack of memory explains.
    pub fn search(&self, text: &str, rules: Rules) -> Result<Vec<Found<'_>>, IndexError> {
        let mut words: Vec<Box<dyn Query>> = Vec::new();
        for word in self.words(text) {
            if let Some(query) = self.word_query(&word, rules.edits)? {
                words.push(query);
            }
        }
        if words.is_empty() {
            return Ok(Vec::new());
        }
        // Rounded before they are ranked: the order in which terms are summed decides no tie.
        let rounded = |_: &SegmentReader| |_: DocId, score: Score| (score * 1e4).round() / 1e4;
        let top = TopDocs::with_limit(rules.top_k.max(1)).tweak_score(rounded);
        let found = self.searcher.search(&BooleanQuery::union(words), &top)?;
        let product = |doc: DocId| self.products.get(doc as usize);
        Ok(found
            .into_iter()
            .filter(|&(score, _)| score > 0.0 && score >= rules.min_score)
            .filter_map(|(score, place)| Some(Found { product: product(place.doc_id)?, score }))
            .collect())
    }

    /// Splits a text into its words without stop words, each with its stem, each stem once.
    fn words(&self, text: &str) -> Vec<Word> {
        let mut words: Vec<Word> = Vec::new();
        self.splitter.clone().token_stream(text).process(&mut |token| {
            if words.len() == MAX_WORDS || STOP_WORDS.binary_search(&token.text.as_str()).is_ok() {
                return;
            }
            let Some(stem) = self.stem(&token.text) else { return };
            if words.iter().all(|word| word.stem != stem) {
                words.push(Word { text: token.text.clone(), stem });
            }
        });
        words
    }

    /// Returns the stem of a word; `None` if it is no word.
    fn stem(&self, word: &str) -> Option<String> {
        let mut stemmer = self.stemmer.clone();
        let mut stems = stemmer.token_stream(word);
        stems.advance().then(|| stems.token().text.clone())
    }

    /// Makes the query of one word: the best of its fields and of the words near it. `None` if
    /// nothing in the catalogue is like it.
    fn word_query(&self, word: &Word, edits: u8) -> Result<Option<Box<dyn Query>>, IndexError> {
        let mut ways: Vec<Box<dyn Query>> = Vec::new();
        let Fields { title, category, description } = self.fields;
        for (field, boost, near) in [
            (title.stems, TITLE, Some(title)),
            (category.stems, CATEGORY, Some(category)),
            (description, DESCRIPTION, None),
        ] {
            let exact = Term::from_field_text(field, &word.stem);
            let exact_idf = self.idf(&exact)?;
            if exact_idf.is_some() {
                ways.push(boosted(&exact, boost));
            }
            let Some(near) = near else { continue };
            for (stem, discount) in self.near(word, near, edits)? {
                let term = Term::from_field_text(field, &stem);
                let Some(idf) = self.idf(&term)? else { continue };
                let rarity = exact_idf.map_or(1.0, |exact| (exact / idf).min(1.0));
                ways.push(boosted(&term, boost * discount * rarity));
            }
        }
        Ok((!ways.is_empty()).then(|| Box::new(DisjunctionMaxQuery::new(ways)) as Box<dyn Query>))
    }

    /// Finds the stems of the words of a field near a word, without its own, with what they count,
    /// in the order of the alphabet.
    fn near(&self, word: &Word, field: Fuzzy, edits: u8) -> Result<BTreeMap<String, Score>, IndexError> {
        let mut near = BTreeMap::new();
        let letters = word.text.chars().count();
        for (distance, (discount, from)) in (1..).zip(DISCOUNT.into_iter().zip(FUZZY_FROM)) {
            if distance > edits || letters < from {
                break;
            }
            let stems = self.terms_near(&Term::from_field_text(field.stems, &word.stem), distance)?;
            let words = self.terms_near(&Term::from_field_text(field.words, &word.text), distance)?;
            for stem in stems.into_iter().chain(words.iter().filter_map(|word| self.stem(word))) {
                if stem != word.stem {
                    near.entry(stem).or_insert(discount);
                }
            }
        }
        Ok(near)
    }

    /// Lists the terms of a field that are at most `distance` letters away from one.
    fn terms_near(&self, term: &Term, distance: u8) -> Result<Vec<String>, IndexError> {
        let automaton = FuzzyTermQuery::new(term.clone(), distance, true).automaton()?;
        let mut found = Vec::new();
        for segment in self.searcher.segment_readers() {
            let index = segment.inverted_index(term.field())?;
            let mut terms = index.terms().search(&automaton).into_stream().map_err(tantivy::TantivyError::from)?;
            while terms.advance() {
                found.extend(std::str::from_utf8(terms.key()).map(str::to_owned));
            }
        }
        Ok(found)
    }

    /// Returns how much a term says, as BM25 weighs it, or `None` if no product has it.
    fn idf(&self, term: &Term) -> Result<Option<Score>, IndexError> {
        let with = self.searcher.doc_freq(term)? as Score;
        let all = self.products.len() as Score;
        Ok((with > 0.0).then(|| (1.0 + (all - with + 0.5) / (with + 0.5)).ln()))
    }
}

/// A word of a query.
struct Word {
    /// As it was said, in small letters without accents.
    text: String,
    stem: String,
}

fn boosted(term: &Term, boost: Score) -> Box<dyn Query> {
    Box::new(BoostQuery::new(Box::new(TermQuery::new(term.clone(), IndexRecordOption::WithFreqs)), boost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::BUILTIN_NAME;

    const RULES: Rules = Rules { top_k: 5, edits: 2, min_score: 0.0 };

    fn index(lines: &str) -> CatalogueIndex {
        CatalogueIndex::build(Catalogue::parse(lines, "test").unwrap()).unwrap()
    }

    fn builtin() -> CatalogueIndex {
        CatalogueIndex::build(Catalogue::load(BUILTIN_NAME).unwrap()).unwrap()
    }

    fn ids<'a>(found: &[Found<'a>]) -> Vec<&'a str> {
        found.iter().map(|found| found.product.id.as_str()).collect()
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn every_exact_title_finds_its_product_first() {
        let index = builtin();
        for product in &index.products {
            let found = index.search(&product.title, Rules { top_k: 100, ..RULES }).unwrap();
            let own = found.iter().find(|found| found.product == product);
            assert_eq!(own.map(|own| own.score), Some(found[0].score), "{product:?}");
        }
    }

    #[test]
    fn a_large_catalogue_finds_its_last_products_too() {
        // More postings than the writer's memory was made for.
        let product = |number: usize| Product {
            id: format!("{number:05}"),
            title: format!("article{number}"),
            category: String::new(),
            description: (0..400).map(|word| format!("n{number}w{word} ")).collect(),
        };
        let index = CatalogueIndex::of((0..4_000).map(product).collect()).unwrap();
        assert_eq!(index.searcher.segment_readers().len(), 1);
        for number in [0, 1_999, 3_999] {
            let found = index.search(&format!("article{number}"), Rules { edits: 0, ..RULES }).unwrap();
            assert_eq!(ids(&found), [format!("{number:05}")]);
        }
    }

    #[test]
    fn a_stale_index_lacks_the_newest_products_and_nothing_else() {
        let index = builtin();
        let stale = index.without_newest(0.3).unwrap();
        assert_eq!(stale.products.len(), (index.products.len() as f64 * 0.7).round() as usize);
        let lost: Vec<_> = index.products.iter().filter(|product| !stale.products.contains(product)).collect();
        let number = |product: &Product| product.id.split('-').next_back().unwrap().parse::<u32>().unwrap();
        let oldest_lost = lost.iter().map(|product| number(product)).min();
        assert!(oldest_lost >= stale.products.iter().map(number).max());
        for product in lost {
            let found = stale.search(&product.title, Rules { top_k: 100, ..RULES }).unwrap();
            assert!(found.iter().all(|found| found.product != product), "{product:?}");
        }
        assert_eq!(index.without_newest(1.0).unwrap().search("red jacket", RULES).unwrap(), []);
        assert_eq!(index.without_newest(0.0).unwrap().products, index.products);
    }

    #[test]
    fn only_the_number_at_the_end_of_an_id_tells_its_age() {
        let product = |id: &str| Product {
            id: id.to_owned(),
            title: "lamp".to_owned(),
            category: String::new(),
            description: String::new(),
        };
        let index = CatalogueIndex::of(["A9-0002", "B2B-0001", "B2B-0017"].map(product).into()).unwrap();
        let kept = index.without_newest(0.6).unwrap().products;
        assert_eq!(kept.iter().map(|product| &*product.id).collect::<Vec<_>>(), ["B2B-0001"]);
    }

    #[test]
    fn equal_scores_are_in_the_order_of_ids() {
        let index = builtin();
        for query in ["jacket", "red", "a lamp for the office", "jakcet", "kitchen"] {
            let found = index.search(query, Rules { top_k: 100, ..RULES }).unwrap();
            assert!(!found.is_empty(), "{query}");
            for pair in found.windows(2) {
                let [first, second] = pair else { unreachable!() };
                let in_order = first.product.id < second.product.id;
                assert!(first.score > second.score || (first.score == second.score && in_order), "{query}");
            }
        }
    }

    #[test]
    fn a_product_with_the_word_itself_comes_before_all_with_a_word_near_it() {
        let index = index(concat!(
            "{\"id\":\"1\",\"title\":\"a coat\"}\n",
            "{\"id\":\"2\",\"title\":\"boat\"}\n",
            "{\"id\":\"3\",\"title\":\"a very long winter coat with buttons and a hood\"}\n",
            "{\"id\":\"4\",\"title\":\"long coat\"}\n",
        ));
        assert_eq!(ids(&index.search("coat", RULES).unwrap()), ["1", "4", "3", "2"]);
    }

    #[test]
    fn fuzzy_matching_can_be_turned_off() {
        let index = builtin();
        assert!(!index.search("jakcet", RULES).unwrap().is_empty());
        assert!(index.search("jakcet", Rules { edits: 0, ..RULES }).unwrap().is_empty());
    }

    #[test]
    fn a_word_is_near_as_it_is_written_or_by_its_stem() {
        let index = index("{\"id\":\"1\",\"title\":\"watering can\"}\n{\"id\":\"2\",\"title\":\"red jacket\"}");
        assert_eq!(ids(&index.search("waterang", RULES).unwrap()), ["1"]);
        assert_eq!(ids(&index.search("jakets", RULES).unwrap()), ["2"]);
    }

    #[test]
    fn short_words_have_to_be_right() {
        let index = index("{\"id\":\"1\",\"title\":\"red hat\"}\n{\"id\":\"2\",\"title\":\"blue jacket\"}");
        assert!(index.search("rad het", RULES).unwrap().is_empty());
        // Two letters wrong in a word of six.
        assert!(index.search("jecked", RULES).unwrap().is_empty());
    }

    #[test]
    fn requests_are_unwrapped() {
        let index = builtin();
        let plain = index.search("red jacket", RULES).unwrap();
        for request in ["show me a red jacket", "I'm looking for the red jackets, please", "I want RED jacket!"] {
            assert_eq!(index.search(request, RULES).unwrap(), plain, "{request}");
        }
    }

    #[test]
    fn nothing_is_found_for_nothing() {
        let index = builtin();
        for query in ["", "   ", "show me the", "?!", "zzzzzzzz qqqq"] {
            assert_eq!(index.search(query, RULES).unwrap(), [], "{query:?}");
        }
    }

    #[test]
    fn titles_count_more_than_categories_and_those_more_than_descriptions() {
        let index = index(concat!(
            "{\"id\":\"1\",\"title\":\"box\",\"category\":\"tools\",\"description\":\"garden\"}\n",
            "{\"id\":\"2\",\"title\":\"bag\",\"category\":\"garden\",\"description\":\"tools\"}\n",
            "{\"id\":\"3\",\"title\":\"garden\",\"category\":\"travel\",\"description\":\"leather\"}\n",
        ));
        assert_eq!(ids(&index.search("garden", RULES).unwrap()), ["3", "2", "1"]);
    }

    #[test]
    fn results_below_the_least_score_are_left_out() {
        let index = builtin();
        let all = index.search("red jacket", Rules { top_k: 100, ..RULES }).unwrap();
        let least = all[0].score - 0.001;
        let best = index.search("red jacket", Rules { top_k: 100, min_score: least, ..RULES }).unwrap();
        assert!(!best.is_empty() && best.len() < all.len());
        assert!(best.iter().all(|found| found.score >= least));
    }
}
