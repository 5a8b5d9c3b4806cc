//! Points in time as they stand in records: RFC 3339, UTC, whole seconds.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// What the clock says.
pub(crate) fn clock() -> SystemTime {
    #[cfg(test)]
    return p2v_copy::boundary::clock();
    #[cfg(not(test))]
    SystemTime::now()
}

/// A point in time, written `2026-11-20T22:16:40Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(SystemTime);

impl Timestamp {
    /// The present, to the second.
    pub fn now() -> Timestamp {
        Timestamp::from_unix(
            clock()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
        )
    }

    /// A time in seconds since 1970-01-01 UTC.
    pub fn from_unix(seconds: u64) -> Timestamp {
        Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// How long before `later` this was; `None` if it lies after it (the clock was set back).
    pub fn age_at(self, later: Timestamp) -> Option<Duration> {
        later.0.duration_since(self.0).ok()
    }

    /// So long before, to the second that had begun by then.
    pub fn before(self, by: Duration) -> Option<Timestamp> {
        let unix = self
            .0
            .checked_sub(by)?
            .duration_since(SystemTime::UNIX_EPOCH);
        Some(Timestamp::from_unix(unix.ok()?.as_secs()))
    }

    /// The time as it may stand in a file name: `20261120T221640Z`.
    pub fn compact(self) -> String {
        self.to_string().replace(['-', ':'], "")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl TryFrom<String> for Timestamp {
    type Error = humantime::TimestampError;

    fn try_from(text: String) -> Result<Timestamp, humantime::TimestampError> {
        humantime::parse_rfc3339(&text).map(Timestamp)
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> String {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let t = Timestamp::from_unix(1_800_000_000);
        assert_eq!(Timestamp::try_from(t.to_string()).unwrap(), t);
        assert_eq!(t.compact(), "20270115T080000Z");
        assert_eq!(
            t.age_at(Timestamp::from_unix(1_800_000_007)),
            Some(Duration::from_secs(7))
        );
        assert_eq!(t.age_at(Timestamp::from_unix(1)), None);
    }
}
