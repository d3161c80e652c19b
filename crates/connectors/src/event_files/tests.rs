use std::{fs, path::PathBuf};

use driftline_stage::StateChange;

use super::*;

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn config(path: &Path, more: &str) -> EventFilesConfig {
    toml::from_str(&format!("path = {:?}\n{more}", path.to_str().unwrap())).unwrap()
}

/// Reads to the end, a new source after every read; gives events and reasons.
fn read(config: &EventFilesConfig) -> (Vec<ClickEvent>, Vec<String>) {
    let (mut events, mut reasons, mut state) = (Vec::new(), Vec::new(), Vec::<StateChange>::new());
    loop {
        let mut source = EventFiles::open(config.clone(), false).unwrap();
        let entry = |change: &StateChange| (change.key.clone(), change.value.clone().unwrap());
        source.restore(state.iter().map(entry).collect()).unwrap();
        let mut batch = SourceBatch::new();
        let status = source.read(&mut batch).unwrap();
        events.extend(batch.records().iter().map(|record| record.2.clone()));
        reasons.extend(batch.rejected().iter().map(|rejected| rejected.reason.rsplit('/').next().unwrap().to_owned()));
        state = batch.state().to_vec();
        if status == SourceStatus::End {
            return (events, reasons);
        }
    }
}

const SHOP: &str = r#"
    columns = { user = "user_id", kind = "event_type", product = "product_id", category = "category_code", time = "event_time" }
    kinds = { cart = "add-to-cart", purchase = "buy" }
"#;

#[test]
fn a_log_in_csv_is_read_and_bad_rows_say_why() {
    let text = "event_time,event_type,product_id,category_code,price,user_id\r\n\
        2019-10-01 00:00:00 UTC,view,44600062,\"beauty,skin\",35.79,541312140\r\n\
        2019-10-01T00:00:01Z,cart,1,,1.0,7\r\n\
        \r\n\
        1569888002,purchase,1,auto,1.0,7\r\n\
        yesterday,view,1,auto,1.0,7\r\n\
        1569888003,look,1,auto,1.0,7\r\n\
        1569888004,view,1,auto,1.0\r\n\
        1569888005,view,1,auto,1.0,\r\n\
        -5,view,1,auto,1.0,7\r\n\
        1569888005,Purchased,1,auto,1.0,7\r\n\
        1569888005,view,a product whose name is longer than the sixty-four bytes that are allowed,auto,1.0,7\r\n\
        1569888006000,view,,,1.0,8";
    let (_folder, path) = file("log.csv", text);
    let (events, reasons) = read(&config(&path, SHOP));
    let event = |kind, product: &str, category: &str, time_ms, user: &str| {
        let (product, category) = (Some(product.to_owned()), Some(category.to_owned()));
        ClickEvent::try_new(user.to_owned(), kind, product, category, time_ms).unwrap()
    };
    let expected = [
        event(ClickKind::View, "44600062", "beauty,skin", 1_569_888_000_000, "541312140"),
        event(ClickKind::AddToCart, "1", "", 1_569_888_001_000, "7"),
        event(ClickKind::Buy, "1", "auto", 1_569_888_002_000, "7"),
        event(ClickKind::View, "", "", 1_569_888_006_000, "8"),
    ];
    assert_eq!(events, expected);
    let expected = [
        "log.csv:6: event_time: found no time, allowed RFC 3339, \"2019-10-01 00:00:00\" with or without UTC, a date, or a number since 1970",
        "log.csv:7: event_type: found \"look\", allowed cart, purchase, visit, search, view, add-to-cart, buy, erase",
        "log.csv:8: line: found 5 fields, allowed 6",
        "log.csv:9: user_id: found nothing, allowed a text or a number",
        "log.csv:10: event_time: found -5, allowed a time in the years 2000 to 2099",
        "log.csv:11: event_type: found \"Purchased\", allowed cart, purchase, visit, search, view, add-to-cart, buy, erase (did you mean \"purchase\"?)",
        "log.csv:12: product_id: found 73 bytes, allowed 1 to 64",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn json_lines_are_read_across_interruptions() {
    let line =
        |n: u32| format!("{{\"who\":{{\"id\":{n}}},\"kind\":\"view\",\"product\":\"p\",\"time_ms\":1600000000000}}\n");
    let text: String = (0..700).map(line).chain(["[1]\n".to_owned(), "{\"a\"\n".to_owned()]).collect();
    let (_folder, path) = file("log.jsonl", &text);
    let (events, reasons) = read(&config(&path, "columns = { user = \"who.id\" }"));
    let users: Vec<u32> = events.iter().map(|event| event.user.parse().unwrap()).collect();
    assert_eq!(users, (0..700).collect::<Vec<_>>());
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].contains(":701: line: found JSON that is no object, allowed a JSON object"), "{reasons:?}");
}

#[test]
fn a_header_without_a_needed_column_is_an_error_before_anything_is_read() {
    let (_folder, path) = file("log.csv", "user,product\n1,2\n");
    for follow in [false, true] {
        let error = EventFiles::open(config(&path, ""), follow).err().unwrap().to_string();
        assert!(error.ends_with("columns.kind: found no column \"kind\", allowed are user, product"), "{error}");
    }
    // Product and category may lack, but not where the config names them.
    let (_folder, path) = file("log.csv", "user,kind,time_ms\n1,visit,1569888000000\n");
    assert_eq!(read(&config(&path, "")).0.len(), 1);
    let error = EventFiles::open(config(&path, "columns = { category = \"brand\" }"), false).err().unwrap().to_string();
    let expected = "columns.category: found no column \"brand\", allowed are user, kind, time_ms";
    assert!(error.ends_with(expected), "{error}");
    let (_folder, path) = file("log.csv", "");
    let error = EventFiles::open(config(&path, ""), false).err().unwrap().to_string();
    assert!(error.ends_with("log.csv:1: found no header, allowed is a line of names"), "{error}");
}

#[test]
fn with_follow_a_header_may_still_be_written() {
    let (_folder, path) = file("log.csv", "user,ki");
    let mut source = EventFiles::open(config(&path, ""), true).unwrap();
    let mut read = || {
        let mut batch = SourceBatch::new();
        assert_eq!(source.read(&mut batch).unwrap(), SourceStatus::Wait(RETRY));
        (batch.len(), batch.rejected().len())
    };
    assert_eq!(read(), (0, 0));
    fs::write(&path, "user,kind,time_ms\n1,visit,1569888000000\n").unwrap();
    assert_eq!(read(), (1, 0));
    assert_eq!(read(), (0, 0));
}

#[test]
fn a_folder_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.csv");
    fs::create_dir(&path).unwrap();
    let error = EventFiles::open(config(&path, ""), false).err().unwrap().to_string();
    assert_eq!(error, format!("path: found the folder {path:?}, allowed is a file"));
}

#[test]
fn another_suffix_is_refused() {
    let problems = EventFiles::check(&config(Path::new("log.xml"), ""));
    assert_eq!(problems[0].path, ["path"]);
}

#[test]
fn a_parquet_file_is_read_across_interruptions() {
    use std::sync::Arc;

    use parquet::{
        data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    // As pandas writes it: nanoseconds, and a user that is a float because one is missing.
    let schema = "message log {
        required int64 event_time (TIMESTAMP(NANOS, true));
        required binary event_type (STRING);
        optional double user_id;
    }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.parquet");
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let compressed = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(fs::File::create(&path).unwrap(), schema, compressed.into()).unwrap();
    for group in 0..2_i64 {
        let mut rows = writer.next_row_group().unwrap();
        let times: Vec<i64> = (0..200).map(|n| (1_569_888_000_000 + group * 200 + n) * 1_000_000 + 999).collect();
        let words: Vec<ByteArray> = (0..200).map(|n| if n == 7 { "look" } else { "cart" }.into()).collect();
        let users: Vec<f64> = (0..199).map(f64::from).collect();
        let there: Vec<i16> = (0..200).map(|n| i16::from(n != 9)).collect();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&words, None, None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&users, Some(&there), None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();

    let columns = r#"
        columns = { user = "user_id", kind = "event_type", time = "event_time" }
        kinds = { cart = "add-to-cart", purchase = "buy" }
    "#;
    let (events, reasons) = read(&config(&path, columns));
    assert_eq!(events.len(), 396);
    let first = ClickEvent::try_new("0".to_owned(), ClickKind::AddToCart, None, None, 1_569_888_000_000).unwrap();
    assert_eq!(events[0], first);
    assert_eq!((events[395].user.as_str(), events[395].time_ms), ("198", 1_569_888_000_399));
    let kinds = "allowed cart, purchase, visit, search, view, add-to-cart, buy, erase";
    let expected = [
        format!("log.parquet: row 8: event_type: found \"look\", {kinds}"),
        "log.parquet: row 10: user_id: found nothing, allowed a text or a number".to_owned(),
        format!("log.parquet: row 208: event_type: found \"look\", {kinds}"),
        "log.parquet: row 210: user_id: found nothing, allowed a text or a number".to_owned(),
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn dates_and_decimals_of_parquet_are_read_and_other_types_refused() {
    use std::sync::Arc;

    use parquet::{
        data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type},
        file::writer::SerializedFileWriter,
        schema::parser::parse_message_type,
    };

    let schema = "message log {
        required int32 day (DATE);
        required binary kind (STRING);
        required int64 user.id (DECIMAL(18, 2));
        required boolean known;
    }";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.parquet");
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(fs::File::create(&path).unwrap(), schema, Arc::default()).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&[18_201, 18_202], None, None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("visit"), "visit".into()], None, None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[700, 725], None, None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    column.typed::<BoolType>().write_batch(&[true, false], None, None).unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    writer.close().unwrap();

    let (events, reasons) = read(&config(&path, "columns = { user = \"user.id\", time = \"day\" }"));
    let events: Vec<_> = events.iter().map(|event| (event.user.as_str(), event.time_ms)).collect();
    assert_eq!((events, reasons), (vec![("7", 1_572_566_400_000), ("7.25", 1_572_652_800_000)], vec![]));
    let refused = config(&path, "columns = { user = \"known\", time = \"day\" }");
    let error = EventFiles::open(refused, false).err().unwrap().to_string();
    assert!(error.contains("columns.user: found column \"known\" of the type BOOLEAN, allowed are texts"), "{error}");
}

#[test]
fn a_damaged_parquet_file_is_an_error_that_names_it() {
    let whole = b"PAR1 is how it begins and ends, and this is what is not between PAR1";
    for text in [&whole[..], &whole[..30], b""] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.parquet");
        fs::write(&path, text).unwrap();
        let error = EventFiles::open(config(&path, ""), false).err().unwrap().to_string();
        assert!(error.contains("log.parquet: cannot be read as Parquet"), "{error}");
    }
}
