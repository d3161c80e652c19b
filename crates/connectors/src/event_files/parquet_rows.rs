//! The rows of a Parquet file, as JSON objects.

use std::{collections::BTreeMap, path::Path};

use driftline_types::Timestamp;
use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit, Type},
    data_type::Decimal,
    errors::ParquetError,
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row, reader::RowIter},
    schema::types::ColumnDescriptor,
};
use serde_json::{Map, Number, Value};

/// Nanoseconds of a millisecond.
const NANOS: i64 = 1_000_000;
/// Milliseconds of a day.
const DAY: i64 = 86_400_000;
/// Most bytes of a decimal number, and most digits of 16 bytes.
const DECIMAL_BYTES: usize = 16;
const DECIMAL_DIGITS: usize = 38;

/// The rows that are left of a file.
pub(super) struct Rows {
    rows: RowIter<'static>,
    /// Columns that hold nanoseconds since 1970, which the reader gives as plain numbers.
    nanos: Vec<Vec<String>>,
    names: Vec<String>,
    unfit: BTreeMap<String, String>,
}

impl Rows {
    /// Opens a file behind its first `skipped` rows.
    pub(super) fn open(path: &Path, skipped: u64) -> Result<Self, ParquetError> {
        let reader = SerializedFileReader::try_from(path)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        // The reader panics at these, whether or not anybody asks for them.
        if let Some(column) = schema.columns().iter().find(|c| c.converted_type() == ConvertedType::INTERVAL) {
            return Err(ParquetError::NYI(format!("column {:?} has the type INTERVAL", column.path().string())));
        }
        let unfit = schema.columns().iter().filter_map(|c| Some((c.path().string(), unfit(c)?))).collect();
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
        Ok(Self { rows, nanos, names, unfit })
    }

    /// Returns the columns, members of members with dots.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the columns whose values are no field of an event, with their types.
    pub(super) fn unfit(&self) -> &BTreeMap<String, String> {
        &self.unfit
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

/// Returns the type of a column if its values are neither texts, numbers, dates nor times since 1970.
fn unfit(column: &ColumnDescriptor) -> Option<String> {
    if column.max_rep_level() > 0 {
        return Some("list or map".to_owned());
    }
    let (stored, meant, logical) = (column.physical_type(), column.converted_type(), column.logical_type_ref());
    let fits = match stored {
        Type::BOOLEAN => false,
        Type::INT32 | Type::INT64 => {
            !matches!(meant, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS)
                && !matches!(logical, Some(LogicalType::Time(_)))
        }
        Type::BYTE_ARRAY => meant != ConvertedType::BSON,
        Type::FIXED_LEN_BYTE_ARRAY => meant == ConvertedType::DECIMAL || logical.is_none(),
        Type::INT96 | Type::FLOAT | Type::DOUBLE => true,
    };
    (!fits).then(|| match logical {
        Some(logical) => format!("{stored:?} ({logical:?})"),
        None => format!("{stored:?}"),
    })
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
        // As text: small numbers are read as seconds.
        Field::Date(days) => Timestamp::from_millis(i64::from(*days) * DAY).to_string().into(),
        Field::Decimal(number) => decimal(number).map_or(Value::Null, Value::from),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => object(row),
        Field::Null
        | Field::Float16(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::ListInternal(_)
        | Field::MapInternal(_) => Value::Null,
    }
}

/// Writes a decimal number out, without zeros at the end of its fraction; nothing for one of more than 16 bytes.
fn decimal(number: &Decimal) -> Option<String> {
    let (&first, rest) = number.data().split_first()?;
    let scale = usize::try_from(number.scale()).ok().filter(|&scale| scale <= DECIMAL_DIGITS)?;
    if rest.len() >= DECIMAL_BYTES {
        return None;
    }
    // Two's complement, the highest byte first.
    let unscaled = rest.iter().fold(i128::from(i8::from_be_bytes([first])), |sum, &byte| (sum << 8) | i128::from(byte));
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let (sign, fraction) = (if unscaled < 0 { "-" } else { "" }, fraction.trim_end_matches('0'));
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

fn float(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return (number as i64).into();
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_written_out() {
        let text = |value, scale| decimal(&Decimal::from_i64(value, 18, scale)).unwrap();
        assert_eq!(
            [text(725, 2), text(700, 2), text(5, 3), text(-1_250, 3), text(7, 0)],
            ["7.25", "7", "0.005", "-1.25", "7"]
        );
        let bytes = |bytes: &[u8]| decimal(&Decimal::from_bytes(bytes.to_vec().into(), 38, 0));
        assert_eq!(bytes(&[0xff, 0xfe]).as_deref(), Some("-2"));
        assert_eq!((bytes(&[]), bytes(&[1; 17])), (None, None));
    }
}
