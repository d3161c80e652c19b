//! The rows of a Parquet file, as JSON objects.

use std::path::Path;

use parquet::{
    basic::{LogicalType, TimeUnit},
    errors::ParquetError,
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row, reader::RowIter},
};
use serde_json::{Map, Number, Value};

/// Nanoseconds of a millisecond.
const NANOS: i64 = 1_000_000;

/// The rows that are left of a file.
pub(super) struct Rows {
    rows: RowIter<'static>,
    /// Columns that hold nanoseconds since 1970, which the reader gives as plain numbers.
    nanos: Vec<Vec<String>>,
    names: Vec<String>,
}

impl Rows {
    /// Opens a file behind its first `skipped` rows.
    pub(super) fn open(path: &Path, skipped: u64) -> Result<Self, ParquetError> {
        let reader = SerializedFileReader::try_from(path)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let paths = schema.columns().iter().map(|column| column.path().parts().to_vec());
        let nanos = schema.columns().iter().filter(|column| {
            matches!(column.logical_type_ref(), Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS)
        });
        let nanos = nanos.map(|column| column.path().parts().to_vec()).collect();
        let names = paths.map(|parts| parts.join(".")).collect();
        let mut rows = reader.into_iter();
        for _ in 0..skipped {
            rows.next().transpose()?;
        }
        Ok(Self { rows, nanos, names })
    }

    /// Returns the columns, members of members with dots.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the next row; times are milliseconds since 1970, bytes that are no text are missing.
    pub(super) fn next(&mut self) -> Option<Result<Value, ParquetError>> {
        let row = match self.rows.next()? {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let mut object = object(&row);
        for path in &self.nanos {
            let place = path.iter().try_fold(&mut object, |value, name| value.get_mut(name));
            if let Some(place) = place
                && let Some(nanos) = place.as_i64()
            {
                *place = nanos.div_euclid(NANOS).into();
            }
        }
        Some(Ok(object))
    }
}

fn object(row: &Row) -> Value {
    Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => (*value).into(),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) | Field::TimestampMillis(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::TimestampMicros(micros) => micros.div_euclid(1_000).into(),
        // A whole number that some tool has made a float, such as a user's number where one is missing, is that number.
        Field::Float(number) => float(f64::from(*number)),
        Field::Double(number) => float(*number),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => object(row),
        Field::Null
        | Field::Float16(_)
        | Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::ListInternal(_)
        | Field::MapInternal(_) => Value::Null,
    }
}

fn float(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return (number as i64).into();
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
