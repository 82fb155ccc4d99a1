//! `year`, `month`, `day_of_week` and their kin: the proleptic Gregorian calendar in UTC.

/// A point in time, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    /// 1..=12
    pub(crate) month: u32,
    /// 1..=31
    pub(crate) day: u32,
    pub(crate) hour: u32,
    pub(crate) minute: u32,
    pub(crate) second: u32,
    /// 1..=366
    pub(crate) day_of_year: u32,
    /// 0 is Sunday
    pub(crate) weekday: u32,
}

impl Civil {
    /// Takes seconds since the Unix epoch apart.
    ///
    /// Counts in 400-year eras that start on a first of March, which puts leap days last.
    pub(crate) fn from_seconds(seconds: i64) -> Civil {
        let days = seconds.div_euclid(86_400);
        let in_day = seconds.rem_euclid(86_400) as u32;
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = (from_march - (153 * month_from_march + 2) / 5 + 1) as u32;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let before_month = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
        Civil {
            year,
            month,
            day,
            hour: in_day / 3600,
            minute: in_day / 60 % 60,
            second: in_day % 60,
            day_of_year: before_month + day + u32::from(month > 2 && is_leap(year)),
            weekday: (days + 4).rem_euclid(7) as u32,
        }
    }

    pub(crate) fn days_in_month(&self) -> u32 {
        match self.month {
            2 => 28 + u32::from(is_leap(self.year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The function called `name`, if it is one of the calendar.
pub(crate) fn by_name(name: &str) -> Option<fn(&Civil) -> f64> {
    Some(match name {
        "day_of_month" => |t| f64::from(t.day),
        "day_of_week" => |t| f64::from(t.weekday),
        "day_of_year" => |t| f64::from(t.day_of_year),
        "days_in_month" => |t| f64::from(t.days_in_month()),
        "hour" => |t| f64::from(t.hour),
        "minute" => |t| f64::from(t.minute),
        "month" => |t| f64::from(t.month),
        "year" => |t| t.year as f64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (seconds, year, month, day, weekday, day_of_year) in [
            (0, 1970, 1, 1, 4, 1),
            (1_136_239_445, 2006, 1, 2, 1, 2),
            (951_782_400, 2000, 2, 29, 2, 60),
            (1_230_768_000 - 1, 2008, 12, 31, 3, 366),
            (-1, 1969, 12, 31, 3, 365),
            (-62_135_596_800, 1, 1, 1, 1, 1),
            (4_107_542_400, 2100, 3, 1, 1, 60),
        ] {
            let t = Civil::from_seconds(seconds);
            assert_eq!(
                (t.year, t.month, t.day, t.weekday, t.day_of_year),
                (year, month, day, weekday, day_of_year),
                "{seconds}"
            );
        }
    }
}
