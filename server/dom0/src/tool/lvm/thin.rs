//! Thin pools: how full they are, and whether LVM makes them larger before they are.

use std::fmt;

use serde::Deserialize;

use super::{bytes, parse, report};
use crate::tool::{ToolError, Tools, unexpected};

/// A part of a whole in ten-thousandths: what LVM prints as `47.13`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// All of it.
const WHOLE: u32 = 10_000;

impl Share {
    /// So much of `whole` at the least, whatever was rounded away.
    pub fn rest_of(self, whole: u64) -> u64 {
        let left = WHOLE.saturating_sub(self.0).saturating_sub(1);
        part(whole, left)
    }

    fn parse(text: &str) -> Option<Share> {
        let (ones, hundredths) = text.split_once('.').unwrap_or((text, ""));
        let hundredths = format!("{hundredths:0<2}");
        let ones: u32 = ones.parse().ok()?;
        let hundredths: u32 = hundredths.get(..2)?.parse().ok()?;
        Some(Share(ones * 100 + hundredths)).filter(|share| share.0 <= WHOLE)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

fn part(whole: u64, share: u32) -> u64 {
    let part = u128::from(whole) * u128::from(share) / u128::from(WHOLE);
    u64::try_from(part).unwrap_or(whole)
}

/// A thin pool as it is now. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinPool {
    /// Volume group.
    pub vg: String,
    /// Its name.
    pub lv: String,
    /// Room for data.
    pub size: u64,
    /// How much of that is used.
    pub data: Share,
    /// How much of the room for metadata is used.
    pub metadata: Share,
    /// Free in the volume group.
    pub vg_free: u64,
    /// Whether `dmeventd` watches it; `None` if LVM does not say.
    pub monitored: Option<bool>,
    /// When and by how much LVM makes it larger.
    pub autoextend: Autoextend,
}

/// LVM's settings for all thin pools (lvm.conf(5), section `activation`), in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoextend {
    /// `thin_pool_autoextend_threshold`: a pool that is fuller is made larger; at 100, none is.
    pub threshold: u32,
    /// `thin_pool_autoextend_percent`: by so much of its size.
    pub percent: u32,
}

impl Autoextend {
    /// What counts where LVM cannot be asked.
    const OFF: Autoextend = Autoextend {
        threshold: 100,
        percent: 0,
    };
}

/// Why a pool stays as large as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// The settings say so.
    Off,
    /// `dmeventd` does not watch it.
    NotMonitored,
    /// The volume group has no room for it.
    NoRoom,
}

impl ThinPool {
    /// Why LVM does not make it larger before it is full; `None`: it does.
    pub fn fixed(&self) -> Option<Fixed> {
        let Autoextend { threshold, percent } = self.autoextend;
        let step = part(self.size, percent.saturating_mul(100));
        match () {
            () if threshold >= 100 || percent == 0 => Some(Fixed::Off),
            () if self.monitored == Some(false) => Some(Fixed::NotMonitored),
            () if self.vg_free < step => Some(Fixed::NoRoom),
            () => None,
        }
    }
}

#[derive(Deserialize)]
struct Rows {
    lv: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    vg_name: String,
    lv_name: String,
    lv_size: String,
    #[serde(default)]
    data_percent: String,
    #[serde(default)]
    metadata_percent: String,
    #[serde(default)]
    vg_free: String,
    #[serde(default)]
    seg_monitor: String,
}

/// The thin pool `vg/lv` as it is now; `None` if it is not active, so that the kernel says nothing of it.
///
/// # Errors
/// What `lvs` said; also if there is no such volume.
pub fn pool(tools: &Tools, vg: &str, lv: &str) -> Result<Option<ThinPool>, ToolError> {
    let text = lvs(tools, vg, lv)?;
    parse_pool(&text, vg, lv, autoextend(tools))
}

/// Bytes that the thin volume `vg/lv` has of its pool; all, if LVM does not say.
///
/// # Errors
/// What `lvs` said; also if there is no such volume.
pub fn written(tools: &Tools, vg: &str, lv: &str) -> Result<u64, ToolError> {
    let row = row(&lvs(tools, vg, lv)?, vg, lv)?;
    let size = bytes("lvs", &row.lv_size)?;
    Ok(Share::parse(&row.data_percent).map_or(size, |share| part(size, share.0)))
}

fn lvs(tools: &Tools, vg: &str, lv: &str) -> Result<String, ToolError> {
    let name = format!("{vg}/{lv}");
    let columns = "vg_name,lv_name,lv_size,data_percent,metadata_percent,vg_free,seg_monitor";
    report(tools, "lvs", columns, Some(&name))
}

fn autoextend(tools: &Tools) -> Autoextend {
    let names = ["threshold", "percent"].map(|n| format!("activation/thin_pool_autoextend_{n}"));
    // With what is built in where lvm.conf says nothing.
    let args = ["--typeconfig", "full", &names[0], &names[1]];
    let text = tools.run("lvmconfig", args);
    text.ok()
        .and_then(|text| parse_autoextend(&text))
        .unwrap_or(Autoextend::OFF)
}

fn parse_autoextend(text: &str) -> Option<Autoextend> {
    let find = |name: &str| {
        let values = text.lines().filter_map(|line| line.split_once('='));
        let mut values = values.map(|(name, value)| (name.trim(), value.trim()));
        values.find(|(n, _)| *n == name)?.1.parse().ok()
    };
    Some(Autoextend {
        threshold: find("thin_pool_autoextend_threshold")?,
        percent: find("thin_pool_autoextend_percent")?,
    })
}

fn row(text: &str, vg: &str, lv: &str) -> Result<Row, ToolError> {
    parse::<Rows>("lvs", text)?
        .into_iter()
        .flat_map(|report| report.lv)
        .find(|row| row.vg_name == vg && row.lv_name == lv)
        .ok_or_else(|| unexpected("lvs", format!("nothing of {vg}/{lv}")))
}

fn parse_pool(
    text: &str,
    vg: &str,
    lv: &str,
    autoextend: Autoextend,
) -> Result<Option<ThinPool>, ToolError> {
    let row = row(text, vg, lv)?;
    let shares = [&row.data_percent, &row.metadata_percent].map(|text| Share::parse(text));
    let [Some(data), Some(metadata)] = shares else {
        return Ok(None);
    };
    Ok(Some(ThinPool {
        size: bytes("lvs", &row.lv_size)?,
        data,
        metadata,
        vg_free: bytes("lvs", &row.vg_free)?,
        monitored: match row.seg_monitor.as_str() {
            "monitored" => Some(true),
            "not monitored" => Some(false),
            _ => None,
        },
        autoextend,
        vg: row.vg_name,
        lv: row.lv_name,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Autoextend = Autoextend {
        threshold: 80,
        percent: 20,
    };

    fn reported(data: &str, monitor: &str) -> String {
        format!(
            r#"{{"report": [{{"lv": [{{"vg_name":"vg0", "lv_name":"pool", "lv_size":"419430400",
                "data_percent":"{data}", "metadata_percent":"11.04", "vg_free":"83886080", "seg_monitor":"{monitor}"}}]}}]}}"#
        )
    }

    #[test]
    fn a_pool_as_lvm_2_03_prints_it() {
        let text = reported("47.13", "monitored");
        let pool = parse_pool(&text, "vg0", "pool", AUTO).unwrap().unwrap();
        assert_eq!(
            (pool.size, pool.data, pool.metadata, pool.vg_free),
            (419_430_400, Share(4713), Share(1104), 83_886_080)
        );
        assert_eq!((pool.monitored, pool.fixed()), (Some(true), None));
        // One that is not active.
        let text = reported("", "");
        assert_eq!(parse_pool(&text, "vg0", "pool", AUTO).unwrap(), None);
        assert!(parse_pool(&text, "vg0", "other", AUTO).is_err());
    }

    #[test]
    fn a_pool_grows_only_where_everything_lets_it() {
        let pool = |monitor: &str, vg_free, (threshold, percent)| {
            let autoextend = Autoextend { threshold, percent };
            let text = reported("47.13", monitor);
            let pool = parse_pool(&text, "vg0", "pool", autoextend);
            let pool = pool.unwrap().unwrap();
            ThinPool { vg_free, ..pool }.fixed()
        };
        let step = 83_886_080;
        for (monitor, vg_free, settings, expected) in [
            ("monitored", step, (80, 20), None),
            ("", step, (80, 20), None),
            ("not monitored", step, (80, 20), Some(Fixed::NotMonitored)),
            ("monitored", step - 1, (80, 20), Some(Fixed::NoRoom)),
            ("monitored", step, (100, 20), Some(Fixed::Off)),
            ("monitored", step, (80, 0), Some(Fixed::Off)),
        ] {
            let found = pool(monitor, vg_free, settings);
            assert_eq!(found, expected, "{monitor} {vg_free} {settings:?}");
        }
    }

    #[test]
    fn shares_and_settings() {
        for (text, share) in [
            ("0.00", Some(0)),
            ("0.5", Some(50)),
            ("47.13", Some(4713)),
            ("100.00", Some(10_000)),
            ("7", Some(700)),
            ("100.01", None),
            ("-1", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(Share::parse(text), share.map(Share), "{text}");
        }
        assert_eq!(Share(4705).to_string(), "47.05 %");
        // What LVM rounded away may be used.
        assert_eq!(Share(5000).rest_of(10_000), 4999);
        assert_eq!(Share(10_000).rest_of(10_000), 0);
        let both = "thin_pool_autoextend_threshold=80\nthin_pool_autoextend_percent=20\n";
        assert_eq!(parse_autoextend(both), Some(AUTO));
        assert_eq!(parse_autoextend("thin_pool_autoextend_percent=20\n"), None);
    }
}
