//! Which files a path names, and what the sessions of recordings are called.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use driftline_stage::StageError;
use driftline_types::visible;
use serde::{Deserialize, Serialize};

/// Folders within folders beyond this depth are not entered.
const MAX_DEPTH: usize = 64;
/// How often new files are looked for.
pub(crate) const RESCAN: Duration = Duration::from_secs(1);

/// Opens the file that the key `path` names.
///
/// # Errors
/// If it cannot be read, or is a folder, a pipe or a device.
pub(crate) fn open(path: &str) -> Result<File, StageError> {
    let unreadable = |error: io::Error| StageError::fatal(format!("path: {path:?} cannot be read")).caused_by(error);
    let found = fs::metadata(path).map_err(unreadable)?;
    if found.is_dir() {
        return Err(StageError::fatal(format!("path: found the folder {path:?}, allowed is a file")));
    }
    if !found.is_file() {
        return Err(StageError::fatal(format!("path: found {path:?}, a pipe or a device, allowed is a regular file")));
    }
    File::open(path).map_err(unreadable)
}

/// Opens a file that holds all it will give.
///
/// # Errors
/// If it cannot be read, or is none: whoever opens a pipe waits for its writer, and no read of a folder succeeds.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
    }
    File::open(path)
}

/// Returns a path as it may stand in logs and reasons: control characters, which a terminal would obey, are escaped.
pub(crate) fn shown(path: impl AsRef<Path>) -> String {
    visible(&path.as_ref().to_string_lossy(), &[])
}

/// Where files are looked for.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// One file.
    File(PathBuf),
    /// A folder and the folders in it.
    Folder(PathBuf),
    /// A glob pattern.
    Pattern {
        /// The pattern.
        pattern: String,
        /// The folder before its first special character.
        root: PathBuf,
    },
}

/// What was found at a place.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Those with a suffix that was asked for, by their path below the place, in order. Bytes that are no UTF-8 are
    /// escaped in it.
    pub files: BTreeMap<String, PathBuf>,
    /// How many other files there are, hidden ones among them.
    pub others: usize,
    /// One of them.
    pub other: Option<PathBuf>,
}

impl Place {
    /// Finds out what a path names. What exists is never taken for a pattern.
    ///
    /// # Errors
    /// If the path neither exists nor is a pattern.
    pub(crate) fn of(path: &str) -> Result<Self, StageError> {
        let refused = |error: &dyn fmt::Display| {
            StageError::fatal(format!("path: found {path:?}, allowed is a folder, a file or a glob: {error}"))
        };
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Folder(path.into())),
            Ok(_) => Ok(Self::File(path.into())),
            Err(error) => {
                let special = path.find(['*', '?', '[']).ok_or_else(|| refused(&error))?;
                glob::Pattern::new(path).map_err(|error| refused(&error))?;
                let root = path[..special].rfind('/').map_or("", |slash| &path[..=slash]);
                Ok(Self::Pattern { pattern: path.to_owned(), root: root.into() })
            }
        }
    }

    /// Lists the files with one of these suffixes, in lower case. Hidden files count as others, and hidden folders are
    /// not entered. A file named outright, or by a pattern without a suffix of its own, is held to the same suffixes;
    /// the former may be hidden.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub(crate) fn list(&self, suffixes: &[&str]) -> io::Result<Listing> {
        let mut listing = Listing::default();
        match self {
            Self::File(file) => listing.add(file.parent().unwrap_or(Path::new("")), file, suffixes),
            Self::Folder(folder) => {
                let mut seen = BTreeSet::new();
                walk(folder, folder, MAX_DEPTH, suffixes, &mut seen, &mut listing)?;
            }
            Self::Pattern { pattern, root } => {
                // The pattern was parsed before; what cannot be read matches nothing.
                for path in glob::glob(pattern).into_iter().flatten().flatten() {
                    if path.is_dir() {
                        continue;
                    }
                    if path.strip_prefix(root).unwrap_or(&path).iter().any(is_hidden) {
                        listing.add_other(&path);
                    } else {
                        listing.add(root, &path, suffixes);
                    }
                }
            }
        }
        Ok(listing)
    }
}

impl Listing {
    fn add(&mut self, root: &Path, path: &Path, suffixes: &[&str]) {
        let suffix = path.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
        if suffix.is_some_and(|suffix| suffixes.contains(&suffix.as_str())) {
            let below = path.strip_prefix(root).unwrap_or(path);
            let parts: Vec<String> = below.iter().map(text).collect();
            self.files.insert(parts.join("/"), path.to_owned());
        } else {
            self.add_other(path);
        }
    }

    fn add_other(&mut self, path: &Path) {
        self.others += 1;
        self.other.get_or_insert_with(|| path.to_owned());
    }
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") && !matches!(name, b"." | b"..")
}

/// Returns a name as text; two names never become one.
fn text(name: &OsStr) -> String {
    match name.to_str() {
        Some(name) if !name.contains("\\x") => name.to_owned(),
        // Of what looks escaped already the backslash becomes two.
        _ => name.as_encoded_bytes().escape_ascii().to_string(),
    }
}

fn walk(
    root: &Path,
    folder: &Path,
    depth: usize,
    suffixes: &[&str],
    seen: &mut BTreeSet<PathBuf>,
    listing: &mut Listing,
) -> io::Result<()> {
    // A folder that links lead to twice, or into itself, is entered once.
    if depth == 0 || !seen.insert(folder.canonicalize()?) {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_some_and(is_hidden);
        match (path.is_dir(), hidden) {
            (true, true) => {}
            (true, false) => walk(root, &path, depth - 1, suffixes, seen, listing)?,
            (false, true) => listing.add_other(&path),
            (false, false) => listing.add(root, &path, suffixes),
        }
    }
    Ok(())
}

/// What tells a file from one that took its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Its size; 0 if it is not there.
    pub bytes: u64,
    /// When it was written, milliseconds since 1970; 0 if that is not known.
    pub written_ms: u64,
}

impl Stamp {
    pub(crate) fn of(file: &Path) -> Self {
        let Ok(metadata) = fs::metadata(file) else { return Self::default() };
        let written = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        Self { bytes: metadata.len(), written_ms: written.map_or(0, |written| written.as_millis() as u64) }
    }
}

/// Watches for new files, of which one may still be being written.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// When they were looked for last, since the source was opened.
    scanned: Duration,
    /// Size and time of each as they were then.
    settling: HashMap<String, (u64, Option<SystemTime>)>,
}

impl Watch {
    /// Returns whether it is time to look for new files; if so, the next time is [`RESCAN`] later.
    pub(crate) fn due(&mut self, now: Duration) -> bool {
        let due = now >= self.scanned + RESCAN;
        if due {
            self.scanned = now;
        }
        due
    }

    /// Returns whether a new file no longer changes: whether it is what it was when this was asked before.
    pub(crate) fn settled(&mut self, path: &str, file: &Path) -> bool {
        let Ok(metadata) = fs::metadata(file) else { return false };
        let seen = (metadata.len(), metadata.modified().ok());
        let settled = self.settling.insert(path.to_owned(), seen) == Some(seen);
        if settled {
            self.settling.remove(path);
        }
        settled
    }
}

/// Names the sessions of files: the prefix, then the stem, or the path below the place where stems collide.
/// `known` are the names given before, by path; they stay.
pub(crate) fn sessions(
    files: &BTreeMap<String, PathBuf>,
    known: &HashMap<String, String>,
    prefix: &str,
) -> HashMap<String, String> {
    let mut stems: HashMap<&str, usize> = HashMap::new();
    for path in files.keys() {
        *stems.entry(stem(path)).or_default() += 1;
    }
    let mut taken: BTreeSet<String> = known.values().cloned().collect();
    let mut names = HashMap::new();
    for path in files.keys().filter(|path| !known.contains_key(*path)) {
        let stem = stem(path);
        let short = format!("{prefix}{stem}");
        let alone = stems.get(stem) == Some(&1) && !files.contains_key(stem) && !taken.contains(&short);
        let mut name = if alone { short } else { format!("{prefix}{path}") };
        while !taken.insert(name.clone()) {
            name.push('~');
        }
        names.insert(path.clone(), name);
    }
    names
}

fn stem(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUFFIXES: [&str; 4] = ["wav", "flac", "mp3", "oga"];

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        folder
    }

    fn list(path: &str) -> Listing {
        Place::of(path).unwrap().list(&SUFFIXES).unwrap()
    }

    #[test]
    fn a_folder_is_searched_in_order_and_for_recordings_only() {
        let folder =
            folder(&["b.WAV", "a/2.flac", "a/10.mp3", "notes.txt", "._b.wav", "c.oga", ".trash/d.wav", "a/.e/f.wav"]);
        let root = folder.path().to_str().unwrap();
        let listing = list(root);
        assert_eq!(listing.files.keys().collect::<Vec<_>>(), ["a/10.mp3", "a/2.flac", "b.WAV", "c.oga"]);
        assert_eq!(listing.others, 2, "a hidden file and a text");
        assert_eq!(list(&format!("{root}/._b.wav")).files.len(), 1, "named outright");
        assert_eq!(list(&format!("{root}/.trash")).files.len(), 1, "named outright");
        assert_eq!(list(&format!("{root}/*.wav")).others, 1);
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_stay_apart() {
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        for name in [&b"a\xe4.wav"[..], b"a\xf6.wav", b"a\\xe4.wav"] {
            // Some file systems allow text only.
            if fs::write(folder.path().join(OsStr::from_bytes(name)), b"x").is_err() {
                return;
            }
        }
        let listing = list(folder.path().to_str().unwrap());
        assert_eq!(listing.files.keys().collect::<Vec<_>>(), ["a\\\\xe4.wav", "a\\xe4.wav", "a\\xf6.wav"]);
    }

    #[test]
    fn control_characters_are_shown_escaped_and_nothing_else() {
        assert_eq!(shown("it's\n\u{1b}[31m \"ä\".wav"), "it's\\n\\u{1b}[31m \"ä\".wav");
    }

    #[test]
    fn a_pattern_and_a_file_name_recordings() {
        let folder = folder(&["x/1.wav", "x/2.wav", "y/1.wav", "y/1.txt"]);
        let root = folder.path().to_str().unwrap();
        let keys = |path: String| list(&path).files.into_keys().collect::<Vec<_>>();
        assert_eq!(keys(format!("{root}/*/1.*")), ["x/1.wav", "y/1.wav"]);
        assert_eq!(keys(format!("{root}/x/2.wav")), ["2.wav"]);
        assert!(Place::of(&format!("{root}/z")).is_err());
        assert!(Place::of(&format!("{root}/[")).is_err());
    }

    #[test]
    fn a_folder_with_the_characters_of_a_pattern_is_a_folder() {
        let folder = folder(&["take [1]/a.wav"]);
        let path = folder.path().join("take [1]");
        assert_eq!(list(path.to_str().unwrap()).files.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_the_folder_around_it_is_not_followed_for_ever() {
        let folder = folder(&["a.wav"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
        assert_eq!(list(folder.path().to_str().unwrap()).files.len(), 1);
    }

    #[test]
    fn stems_that_collide_are_named_by_their_path() {
        let files = |names: &[&str]| names.iter().map(|&name| (name.to_owned(), PathBuf::new())).collect();
        let all = files(&["a/1.wav", "b/1.wav", "b/2.wav", "x.wav", "x.wav.flac"]);
        let names = sessions(&all, &HashMap::new(), "");
        let name = |path: &str| names[path].as_str();
        assert_eq!((name("a/1.wav"), name("b/1.wav"), name("b/2.wav")), ("a/1.wav", "b/1.wav", "2"));
        assert_eq!((name("x.wav"), name("x.wav.flac")), ("x", "x.wav.flac"));

        let known = HashMap::from([("old/2.wav".to_owned(), "2".to_owned())]);
        assert_eq!(sessions(&files(&["new/2.wav"]), &known, "")["new/2.wav"], "new/2.wav");

        let names = sessions(&all, &HashMap::from([("old/2.wav".to_owned(), "left-2".to_owned())]), "left-");
        let name = |path: &str| names[path].as_str();
        assert_eq!((name("a/1.wav"), name("b/2.wav"), name("x.wav")), ("left-a/1.wav", "left-b/2.wav", "left-x"));
    }
}
