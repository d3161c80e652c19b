//! Hours, weekends and seasons: how often people come, and for what.

use jiff::{Timestamp, civil::Weekday, tz::TimeZone};

use crate::{DAY, Parameters, catalogue::CATEGORIES};

/// How busy each hour is, UTC; the mean is about 1.
const HOURS: [f64; 24] = [
    0.35, 0.2, 0.12, 0.1, 0.1, 0.15, 0.3, 0.6, 0.8, 0.95, 1.1, 1.2, 1.3, 1.2, 1.15, 1.2, 1.3, 1.4, 1.6, 1.9, 2.1, 1.9,
    1.4, 0.7,
];
/// The busiest hour.
const BUSIEST: f64 = 2.1;
/// How much more people come at the height of the holidays.
const HOLIDAY_VISITS: f64 = 0.25;

/// A bump in the year: the day of its height, its width in days (one sigma), its height.
type Bump = (f64, f64, f64);

/// Christmas.
const HOLIDAYS: Bump = (349.0, 12.0, 1.0);

/// Categories with seasons, by the beginning of their name.
const SEASONS: [(&str, Bump); 9] = [
    ("auto/tyres", (305.0, 14.0, 2.0)),
    ("auto/tyres", (92.0, 14.0, 2.0)),
    ("garden/", (135.0, 35.0, 2.5)),
    ("gifts/toys", (349.0, 12.0, 3.0)),
    ("gifts/sweets", (349.0, 12.0, 3.0)),
    ("gaming/", (349.0, 12.0, 1.0)),
    ("electronics/", (349.0, 12.0, 0.8)),
    ("fashion/jackets", (300.0, 25.0, 1.5)),
    ("home/lighting", (340.0, 25.0, 0.8)),
];

/// A moment as the shop sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    hour: usize,
    weekend: bool,
    day_of_year: f64,
}

impl Moment {
    /// Places a time in its day, week and year. Times out of range count as 1970.
    pub(crate) fn of(time_ms: i64) -> Self {
        let time = Timestamp::from_millisecond(time_ms).unwrap_or_default().to_zoned(TimeZone::UTC);
        Self {
            hour: time.hour() as usize,
            weekend: matches!(time.weekday(), Weekday::Saturday | Weekday::Sunday),
            day_of_year: f64::from(time.day_of_year()) + time_ms.rem_euclid(DAY) as f64 / DAY as f64,
        }
    }

    /// Returns how busy the shop is against [`busiest`], 0 to 1.
    pub(crate) fn visits(self, parameters: &Parameters) -> f64 {
        let weekend = if self.weekend { parameters.weekend } else { 1.0 };
        let holiday = 1.0 + HOLIDAY_VISITS * parameters.season * self.bump(HOLIDAYS);
        HOURS[self.hour] * weekend * holiday / busiest(parameters)
    }

    /// Returns the weight of each category.
    pub(crate) fn season(self, parameters: &Parameters) -> [f32; CATEGORIES.len()] {
        let mut weights = [1.0; CATEGORIES.len()];
        for (prefix, bump) in SEASONS {
            let more = (parameters.season * self.bump(bump)) as f32;
            for (weight, category) in weights.iter_mut().zip(&CATEGORIES) {
                if category.name.starts_with(prefix) {
                    *weight += more;
                }
            }
        }
        weights
    }

    fn bump(self, (day, width, height): Bump) -> f64 {
        let off = (self.day_of_year - day).abs();
        let off = off.min(365.25 - off);
        height * (-0.5 * (off / width).powi(2)).exp()
    }
}

/// Returns what [`Moment::visits`] is relative to: the rate at the busiest hour there can be, against
/// the mean.
pub(crate) fn busiest(parameters: &Parameters) -> f64 {
    BUSIEST * parameters.weekend.max(1.0) * (1.0 + HOLIDAY_VISITS * parameters.season)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_have_mean_one_and_the_busiest_is_the_busiest() {
        let mean = HOURS.iter().sum::<f64>() / 24.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert!(HOURS.iter().all(|hour| *hour <= BUSIEST));
    }

    #[test]
    fn toys_have_their_season_before_christmas() {
        let parameters = Parameters::default();
        let toys = crate::catalogue::category_named("gifts/toys").unwrap();
        let december = Moment::of(1_797_292_800_000).season(&parameters)[toys];
        let july = Moment::of(1_783_900_800_000).season(&parameters)[toys];
        assert!(december > 3.5 && july < 1.01, "{december} {july}");
    }
}
