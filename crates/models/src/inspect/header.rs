//! The header of a safetensors file, read without trusting it.
//!
//! Layout: eight bytes with the header's length (little endian), that many bytes of JSON `{name: {dtype, shape,
//! data_offsets: [start, end]}}`, then the data. What holds of a [`Header`] that [`Header::read`] returned: its bytes were within
//! [`MAX_HEADER_BYTES`], it has at most [`MAX_TENSORS`] tensors with distinct names, each tensor's range has exactly the bytes its shape
//! and type need, and the ranges, in the order of [`Header::tensors`], tile the data without gap or overlap. Nothing
//! larger than the header is allocated before that is known.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::error::ModelError;

/// The largest header accepted; the largest published Whisper checkpoint needs 0.2 MB.
pub const MAX_HEADER_BYTES: u64 = 8 << 20;
/// The most tensors accepted in a file; the largest published Whisper checkpoint has 1,259.
pub const MAX_TENSORS: usize = 16_384;
const MAX_NAME_BYTES: usize = 256;
const MAX_RANK: usize = 8;

/// One tensor as the header describes it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: usize,
}

/// A header that was checked against its file's length.
#[derive(Debug)]
pub(crate) struct Header {
    /// In the order of the data.
    pub tensors: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
    /// The header's bytes with its length in front: with the data they are the file.
    pub raw: Vec<u8>,
}

impl ModelError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn format(
        path: &Path,
        place: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Format { path: path.to_owned(), place: place.into(), found: found.into(), allowed: allowed.into() }
    }
}

impl Header {
    /// Reads the header and leaves `file` at the first byte of the data.
    ///
    /// # Errors
    ///
    /// [`ModelError::Format`] names the first thing that is wrong and the limit it broke; [`ModelError::Read`] when reading fails.
    pub fn read(path: &Path, file: &mut File) -> Result<Self, ModelError> {
        let wrong = |place: &str, found: String, allowed: String| ModelError::format(path, place, found, allowed);
        let file_bytes = regular_file_bytes(path, file)?;
        if file_bytes < 8 {
            let allowed = "at least 8 bytes, as a safetensors file has".into();
            return Err(wrong("file length", format!("{file_bytes} bytes"), allowed));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|e| ModelError::read(path, e))?;
        let header_bytes = u64::from_le_bytes(length);
        let most = MAX_HEADER_BYTES.min(file_bytes - 8);
        if header_bytes > most {
            // The first bytes of anything else make a length too.
            let what =
                if header_bytes > MAX_HEADER_BYTES { "no safetensors file" } else { "not all of a safetensors file" };
            let allowed = format!(
                "at most {most} bytes (the file has {file_bytes}, the limit is {MAX_HEADER_BYTES}): it is {what}"
            );
            return Err(wrong("header length", format!("{header_bytes} bytes"), allowed));
        }
        let mut raw = length.to_vec();
        file.take(header_bytes).read_to_end(&mut raw).map_err(|e| ModelError::read(path, e))?;
        let parsed: RawHeader = serde_json::from_slice(&raw[8..]).map_err(|e| {
            let allowed = format!("a JSON object of at most {MAX_TENSORS} tensors, as a safetensors file begins with");
            wrong("header", e.to_string(), allowed)
        })?;
        let tensors = checked(path, parsed.tensors, file_bytes - 8 - header_bytes)?;
        Ok(Self { tensors, metadata: parsed.metadata, raw })
    }
}

/// Reads a whole file whose header was checked before the rest was read.
///
/// # Errors
///
/// Those of [`Header::read`].
pub(crate) fn read_checked(path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut file = File::open(path).map_err(|e| ModelError::read(path, e))?;
    let mut bytes = Header::read(path, &mut file)?.raw;
    file.read_to_end(&mut bytes).map_err(|e| ModelError::read(path, e))?;
    Ok(bytes)
}

/// Returns the length of a regular file; a pipe, device or folder is refused, because reading it may never end.
pub(crate) fn regular_file_bytes(path: &Path, file: &File) -> Result<u64, ModelError> {
    let metadata = file.metadata().map_err(|e| ModelError::read(path, e))?;
    if !metadata.is_file() {
        return Err(ModelError::format(path, "file type", "not a regular file", "a regular file"));
    }
    Ok(metadata.len())
}

fn checked(path: &Path, raw: Vec<(String, RawEntry)>, data_bytes: u64) -> Result<Vec<Entry>, ModelError> {
    let mut ranges = Vec::with_capacity(raw.len());
    for (name, entry) in raw {
        let wrong =
            |found: String, allowed: String| ModelError::format(path, format!("tensor {name:?}"), found, allowed);
        if entry.shape.len() > MAX_RANK {
            return Err(wrong(format!("{} dimensions", entry.shape.len()), format!("at most {MAX_RANK}")));
        }
        let bits = entry.shape.iter().try_fold(entry.dtype.bitsize() as u64, |n, &d| n.checked_mul(d as u64));
        let [start, end] = entry.data_offsets;
        if start > end || end > data_bytes {
            return Err(wrong(
                format!("data_offsets [{start}, {end}]"),
                format!("ranges within the file's {data_bytes} bytes of data"),
            ));
        }
        if bits != Some((end - start).saturating_mul(8)) {
            let need = bits.map_or("more than 2^64 bits".to_owned(), |b| format!("{} bytes", b.div_ceil(8)));
            return Err(wrong(
                format!("{} bytes of data", end - start),
                format!("{need}, for {:?} {:?}", entry.dtype, entry.shape),
            ));
        }
        let bytes = usize::try_from(end - start)
            .map_err(|_| wrong(format!("{} bytes", end - start), "what memory can address".into()))?;
        ranges.push((start, end, Entry { name, dtype: entry.dtype, shape: entry.shape, bytes }));
    }
    ranges.sort_by_key(|range| (range.0, range.1));
    let mut expected = 0;
    for (start, end, entry) in &ranges {
        if *start != expected {
            let place = format!("tensor {:?}", entry.name);
            let allowed = format!("{expected}: the data has neither gaps nor overlaps");
            return Err(ModelError::format(path, place, format!("data that starts at {start}"), allowed));
        }
        expected = *end;
    }
    if expected != data_bytes {
        return Err(ModelError::format(
            path,
            "data",
            format!("{data_bytes} bytes"),
            format!("the {expected} bytes the header describes"),
        ));
    }
    Ok(ranges.into_iter().map(|(_, _, entry)| entry).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Stops at the first entry over the limit: a header of a hundred thousand tensors costs no more than one of sixteen thousand.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES {
                return Err(A::Error::custom(format!(
                    "a tensor name of {} bytes, over the limit of {MAX_NAME_BYTES}",
                    name.len()
                )));
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name {name:?} twice")));
            }
            if name == "__metadata__" {
                header.metadata = map.next_value()?;
                continue;
            }
            if header.tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let entry = map.next_value()?;
            header.tensors.push((name, entry));
        }
        Ok(header)
    }
}
