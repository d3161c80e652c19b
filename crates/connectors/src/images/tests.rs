//! Folders of pictures, whole and broken.

use std::{
    fs::{self, File},
    io::Write,
};

use driftline_payloads::image::Format;
use tempfile::TempDir;

use super::*;

fn picture(shade: u8) -> Bytes {
    let rgb = vec![shade; 3 * 32 * 32];
    Image::from_rgb(Shot::default(), Format::Png, 90, (32, 32), &rgb).unwrap().file().clone()
}

fn folder(files: &[(&str, Bytes)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().write_all(bytes).unwrap();
    }
    folder
}

fn open(folder: &TempDir, more: &str, follow: bool) -> ImageFiles {
    let config = format!("path = {:?}\n{more}", folder.path().to_str().unwrap());
    ImageFiles::open(toml::from_str(&config).unwrap(), follow).unwrap()
}

type Line = (String, Option<u64>, u32, i64);

fn line((key, time, image): &(Key, Timestamp, Image)) -> Line {
    assert_eq!(key.as_bytes(), image.shot.camera.as_bytes());
    (image.shot.name.clone().unwrap(), image.shot.frame, image.shot.missing, time.as_millis() - 946_684_800_000)
}

/// Reads to the end, and returns also the state as it was committed last.
fn read_all(source: &mut ImageFiles) -> (Vec<Line>, Vec<String>) {
    let (mut lines, mut reasons) = (Vec::new(), Vec::new());
    loop {
        let mut batch = SourceBatch::new();
        let status = source.read(&mut batch).unwrap();
        lines.extend(batch.records().iter().map(line));
        reasons.extend(batch.rejected().iter().map(|rejected| rejected.reason.clone()));
        if status == SourceStatus::End {
            return (lines, reasons);
        }
    }
}

#[test]
fn cameras_take_turns_and_time_is_that_of_the_config() {
    let folder = folder(&[
        ("left/a.png", picture(1)),
        ("left/b.PNG", picture(2)),
        ("right/c.png", picture(3)),
        ("notes.txt", Bytes::from_static(b"x")),
    ]);
    let (lines, reasons) = read_all(&mut open(&folder, "every = \"250ms\"", false));
    let expected = [("left/a.png", 0, 0, 0), ("right/c.png", 0, 0, 0), ("left/b.PNG", 1, 0, 250)];
    let expected: Vec<Line> =
        expected.map(|(name, frame, missing, at)| (name.to_owned(), Some(frame), missing, at)).into();
    assert_eq!((lines, reasons), (expected, vec![]));
    let (lines, _) = read_all(&mut open(&folder, "camera = \"one\"", false));
    assert_eq!(
        lines.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        ["left/a.png", "left/b.PNG", "right/c.png"]
    );
}

#[test]
fn what_is_broken_is_a_dead_letter_and_counts_as_missing() {
    let whole = picture(1);
    let folder = folder(&[
        ("1.png", whole.clone()),
        ("2.png", whole.slice(..whole.len() / 2)),
        ("3.jpg", Bytes::from_static(b"no picture")),
        ("4.png", whole.clone()),
        ("5.png", vec![0; 2_000].into()),
    ]);
    let (lines, reasons) = read_all(&mut open(&folder, "max_file_bytes = 1500", false));
    assert_eq!(
        lines.iter().map(|(name, _, missing, _)| (name.as_str(), *missing)).collect::<Vec<_>>(),
        [("1.png", 0), ("4.png", 2)]
    );
    assert_eq!(reasons.len(), 3);
    assert!(reasons[0].starts_with("2.png: png: found a file that cannot be decoded"), "{}", reasons[0]);
    assert_eq!(
        reasons[1],
        "3.jpg: byte 0: found 10 bytes that begin neither as JPEG nor as PNG, allowed a JPEG or PNG file"
    );
    assert_eq!(
        reasons[2],
        "5.png: file: found 2000 bytes, allowed at most 1500 (max_file_bytes); kept are the first 2000"
    );
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = folder(&[("a.png", picture(1))]);
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("b.png")).unwrap();
    let (lines, reasons) = read_all(&mut open(&folder, "", false));
    assert_eq!((lines.len(), reasons), (1, vec!["b.png: file: cannot be read: no regular file".to_owned()]));
}

#[test]
fn gaps_between_numbers_are_lost_pictures_if_the_config_says_so() {
    let folder = folder(&[("a_07.png", picture(1)), ("a_08.png", picture(2)), ("a_11.png", picture(3))]);
    let (lines, _) = read_all(&mut open(&folder, "numbered = true", false));
    let counts: Vec<_> = lines.iter().map(|(_, frame, missing, _)| (frame.unwrap(), *missing)).collect();
    assert_eq!(counts, [(7, 0), (8, 0), (11, 2)]);
    assert_eq!((number("x/exp1_num_12.jpg"), number("a12b.png"), number("a.png")), (Some(12), Some(12), None));
    assert_eq!(number("x/bildö12ö.png"), Some(12));
}

#[test]
fn numbers_without_leading_zeros_are_in_their_order() {
    let names = ["10.png", "11.png", "1.png", "2.png", "cover.png"];
    let files: Vec<(&str, Bytes)> = names.into_iter().map(|name| (name, picture(1))).collect();
    let folder = folder(&files);
    let (lines, _) = read_all(&mut open(&folder, "numbered = true\nevery = \"100ms\"", false));
    let lines: Vec<_> = lines.iter().map(|(name, frame, missing, at)| (name.as_str(), *frame, *missing, *at)).collect();
    let expected = [
        ("1.png", Some(1), 0, 0),
        ("2.png", Some(2), 0, 100),
        ("10.png", Some(10), 7, 200),
        ("11.png", Some(11), 0, 300),
        ("cover.png", Some(12), 0, 400),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_takes_the_place_of_a_refused_picture_is_read_and_counts_nothing_twice() {
    let folder = folder(&[("1.png", picture(1)), ("2.png", Bytes::from_static(b"no picture")), ("3.png", picture(3))]);
    let mut state: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut resume = || {
        let mut source = open(&folder, "numbered = true", false);
        source.restore(state.clone().into_iter().collect()).unwrap();
        let mut batch = SourceBatch::new();
        assert_eq!(source.read(&mut batch).unwrap(), SourceStatus::End);
        state.extend(batch.state().iter().map(|change| (change.key.clone(), change.value.clone().unwrap())));
        let frames: Vec<_> = batch.records().iter().map(|(.., image)| (image.shot.frame, image.shot.missing)).collect();
        (frames, batch.rejected().len())
    };
    assert_eq!(resume(), (vec![(Some(1), 0), (Some(3), 1)], 1));
    assert_eq!(resume(), (vec![], 0));
    fs::write(folder.path().join("2.png"), b"no picture either").unwrap();
    assert_eq!(resume(), (vec![], 1));
    for shade in [1, 2, 4] {
        fs::write(folder.path().join(format!("{shade}.png")), picture(shade)).unwrap();
    }
    assert_eq!(resume(), (vec![(Some(2), 0), (Some(4), 0)], 0));
    assert_eq!(resume(), (vec![], 0));
    // Nothing has told yet that it was missing, and it no longer is.
    fs::write(folder.path().join("5.png"), b"half a picture").unwrap();
    assert_eq!(resume(), (vec![], 1));
    for shade in [5, 6] {
        fs::write(folder.path().join(format!("{shade}.png")), picture(shade)).unwrap();
    }
    assert_eq!(resume(), (vec![(Some(5), 0), (Some(6), 0)], 0));
}

#[test]
fn a_resumed_run_reads_no_file_twice_and_leaves_none_out() {
    let files: Vec<(String, Bytes)> = (0..40).map(|i| (format!("{}/{i:02}.png", i % 3), picture(i))).collect();
    let files: Vec<(&str, Bytes)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let folder = folder(&files);
    let (whole, _) = read_all(&mut open(&folder, "", false));
    assert_eq!(whole.len(), 40);
    let mut first = open(&folder, "", false);
    let mut batch = SourceBatch::new();
    assert_eq!(first.read(&mut batch).unwrap(), SourceStatus::More);
    let mut state: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    state.extend(batch.state().iter().map(|change| (change.key.clone(), change.value.clone().unwrap())));
    let mut lines: Vec<Line> = batch.records().iter().map(line).collect();
    let mut second = open(&folder, "", false);
    second.restore(state.into_iter().collect()).unwrap();
    lines.extend(read_all(&mut second).0);
    assert_eq!(lines, whole);
}

#[test]
fn a_folder_that_cannot_be_listed_loses_no_picture() {
    let folder = folder(&[("a.png", picture(1)), ("b.png", picture(2))]);
    let mut source = open(&folder, "", true);
    let place = std::mem::replace(&mut source.place, Place::Folder(folder.path().join("gone")));
    let mut batch = SourceBatch::new();
    assert_eq!(source.read_at(Duration::from_secs(2), &mut batch).unwrap(), SourceStatus::Wait(RESCAN));
    assert_eq!(batch.len(), 2);
    let error = source.read_at(Duration::from_secs(4), &mut SourceBatch::new()).unwrap_err();
    assert!(error.to_string().ends_with("cannot be listed"), "{error}");
    source.place = place;
    let status = source.read_at(Duration::from_secs(6), &mut SourceBatch::new()).unwrap();
    assert_eq!(status, SourceStatus::Wait(RESCAN));
}

#[test]
fn new_files_are_waited_for_until_they_are_whole() {
    let folder = folder(&[("a.png", picture(1))]);
    let mut source = open(&folder, "", true);
    let mut batch = SourceBatch::new();
    assert_eq!(source.read_at(Duration::ZERO, &mut batch).unwrap(), SourceStatus::Wait(RESCAN));
    assert_eq!(batch.len(), 1);
    fs::write(folder.path().join("b.png"), picture(2)).unwrap();
    for (second, expected) in [(1, 1), (2, 2), (3, 2)] {
        source.read_at(Duration::from_secs(second), &mut batch).unwrap();
        assert_eq!(batch.len(), expected, "after {second} s");
    }
}
