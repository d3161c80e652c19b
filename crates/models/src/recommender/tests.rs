use super::*;
use crate::profile::history::RECENT;

#[test]
fn the_last_state_is_the_last_of_all_states() {
    let products = 50;
    let shapes = Network::shapes(products, 4);
    let (parameters, _) = Parameters::draw(&shapes, 3).unwrap();
    let categories: Vec<u32> = (0..products as u32).map(|n| n % 4 + 1).collect();
    let network = Network::try_new(&parameters, &categories, 4).unwrap();
    let event = |n: u32| Token {
        product: n % 50 + 1,
        category: n % 4 + 1,
        action: Action::View,
        time_ms: i64::from(n) * 50_000,
    };
    let mut inputs = Inputs::default();
    for length in [0, 1, 7, RECENT as u32, 33] {
        let events: Vec<Token> = (0..length).map(event).collect();
        inputs.push(&events, &[0.5, 0.9, 0.1, 0.5, 0.5]);
    }
    let all = network.states(&inputs).unwrap();
    let last = all.narrow(1, network::LENGTH - 1, 1).unwrap().squeeze(1).unwrap().to_vec2::<f32>().unwrap();
    let found = network.last_states(&inputs).unwrap().to_vec2::<f32>().unwrap();
    for (found, last) in found.iter().flatten().zip(last.iter().flatten()) {
        assert!((found - last).abs() < 1e-4, "{found} {last}");
    }
    // What comes later is not seen: a window cut short gives the state it had there.
    let mut longer = Inputs::default();
    longer.push(&(0..6).map(event).collect::<Vec<_>>(), &[0.5; 5]);
    let mut shorter = Inputs::default();
    shorter.push(&(0..6).map(event).chain([event(40)]).collect::<Vec<_>>()[..6], &[0.5; 5]);
    let state = |inputs: &Inputs| network.last_states(inputs).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(state(&longer), state(&shorter));
}

#[test]
fn the_model_that_ships_is_read() {
    let recommender = Recommender::builtin(None).unwrap();
    assert_eq!(recommender.catalogue().products().len(), 2_400);
    let out: Vec<&str> = recommender
        .catalogue()
        .products()
        .iter()
        .filter(|product| !product.in_stock)
        .map(|product| &*product.id)
        .collect();
    assert!(!out.is_empty());
    let answers = recommender.recommend(&[Request { attributes: [0.5; 5], ..Request::default() }], 2_400).unwrap();
    assert_eq!(answers[0].basis, Basis::Popularity);
    assert_eq!(answers[0].products.len(), 2_400 - out.len(), "all but what is out of stock");
}

#[test]
fn a_product_that_was_not_met_scores_as_the_average_of_those_that_were() {
    let product =
        |id: &&str| CatalogueProduct { id: (*id).to_owned(), category: "c".to_owned(), in_stock: true, views: 0 };
    let catalogue =
        |ids: &[&str]| Catalogue::try_new(ids.iter().map(product).collect(), Path::new("catalogue")).unwrap();
    let (mut parameters, _) = Parameters::draw(&Network::shapes(2, 1), 3).unwrap();
    // Of no product, and of the two that were met.
    parameters.insert("bias", &[9.0, 1.0, 2.0]).unwrap();
    let network = Network::try_new(&parameters, &[1, 1], 1).unwrap();
    let score = |ids: &[&str]| {
        let met = catalogue(&["a", "b"]);
        let recommender = Recommender::new(network.clone(), met, Some(catalogue(ids)), "").unwrap();
        let event = Event { product: Some("a"), category: None, action: Action::View, time_ms: 0 };
        let request = Request { events: vec![event], attributes: [0.5; 5], ..Request::default() };
        let products = recommender.recommend(&[request], ids.len()).unwrap().remove(0).products;
        products.iter().find(|found| ids[found.product] == "new").unwrap().score
    };
    let alone = score(&["new"]);
    let cases: [(&[&str], f32); 4] =
        [(&["new", "newer"], 0.0), (&["a", "new"], 1.0), (&["a", "new", "newer"], 1.0), (&["a", "b", "new"], 1.5)];
    for (ids, average) in cases {
        assert!((score(ids) - alone - average).abs() < 1e-4, "{ids:?}: {} {alone}", score(ids));
    }
}

#[test]
fn a_file_of_products_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(WEIGHTS_FILE), include_bytes!("../../weights/recommender.safetensors")).unwrap();
    fs::write(folder.path().join(PRODUCTS_FILE), "?").unwrap();
    let error = Recommender::load(folder.path(), None).map(drop).unwrap_err().to_string();
    assert!(error.contains("recommender.products.jsonl: line 1: found"), "{error}");
}

#[test]
fn a_catalogue_that_is_none_says_where() {
    let parse = |text: &str| Catalogue::parse(text, Path::new("catalogue.jsonl")).unwrap_err().to_string();
    assert!(parse("").contains("lines: found none"), "{}", parse(""));
    assert!(parse("{\"id\":\"a\",\"category\":\"b\"}\n?").starts_with("catalogue.jsonl: line 2: found expected value"));
    let twice = "{\"id\":\"a\",\"category\":\"b\"}\n{\"id\":\"a\",\"category\":\"b\"}";
    assert!(parse(twice).contains("product 2: found an id that was there before"), "{}", parse(twice));
}
