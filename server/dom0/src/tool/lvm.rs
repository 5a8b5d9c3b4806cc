//! LVM's programs, the one place that runs them. Sizes in bytes.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ToolError, Tools, unexpected};

mod filter;
pub mod thin;

/// Start of every tag of ours.
pub const TAG_PREFIX: &str = "p2v.";
/// Tag of a volume whose copy was begun and is not known to be complete.
pub const TAG_COPYING: &str = "p2v.copying";
/// Tag of a volume that a domain was switched to: nothing is ever copied over it.
pub const TAG_MOVED: &str = "p2v.moved";

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Free bytes.
    pub free: u64,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its group.
    pub vg: String,
    /// Its name.
    pub lv: String,
    /// Its UUID.
    pub uuid: String,
    /// Its group's UUID.
    pub vg_uuid: String,
    /// Its size in bytes: whole extents.
    pub size: u64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether its device node is there.
    pub active: bool,
    /// Thin volumes are made in it, and nothing is written to it.
    pub is_thin_pool: bool,
    /// Of a thin volume: the pool that it is in.
    pub pool: Option<String>,
    /// Of a thin pool: what is newly mapped reads as zeros (`lvcreate --zero y`).
    pub zeroes: bool,
}

impl Volume {
    /// What the kernel calls its device, while it is active (LVM2, lib/misc/lvm-string.c, `build_dm_uuid`).
    pub fn dm_uuid(&self) -> String {
        let bare = |uuid: &str| uuid.replace('-', "");
        format!("LVM-{}{}", bare(&self.vg_uuid), bare(&self.uuid))
    }

    /// Whether it has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }
}

/// Why a text does not name a volume group or volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the name of a volume group or volume: letters, digits and +_.- only, not starting with `-`"
)]
pub struct BadVolumeName(pub String);

/// Checks a name by LVM's rules (lvm(8), "Valid names").
///
/// # Errors
/// [`BadVolumeName`].
pub fn check_name(name: &str) -> Result<&str, BadVolumeName> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"+_.-".contains(&b);
    let ok = !name.is_empty()
        && name.len() <= 127
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name.bytes().all(legal);
    if ok {
        Ok(name)
    } else {
        Err(BadVolumeName(name.to_owned()))
    }
}

#[derive(Deserialize)]
struct Reports<T> {
    report: Vec<T>,
}

#[derive(Deserialize)]
struct Groups {
    vg: Vec<GroupRow>,
}

#[derive(Deserialize)]
struct GroupRow {
    vg_name: String,
    vg_size: String,
    vg_free: String,
}

#[derive(Deserialize)]
struct Volumes {
    lv: Vec<VolumeRow>,
}

#[derive(Deserialize)]
struct VolumeRow {
    vg_name: String,
    lv_name: String,
    lv_uuid: String,
    #[serde(default)]
    vg_uuid: String,
    lv_size: String,
    lv_tags: String,
    lv_active: String,
    #[serde(default)]
    segtype: String,
    #[serde(default)]
    pool_lv: String,
    #[serde(default)]
    zero: String,
}

/// What `tool` says of `of`, or of all: JSON, with sizes in bytes.
fn report(tools: &Tools, tool: &str, columns: &str, of: Option<&str>) -> Result<String, ToolError> {
    let format = [
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
        "-o",
        columns,
    ];
    run(tools, tool, format.into_iter().chain(of))
}

/// Every volume group.
///
/// # Errors
/// What `vgs` said.
pub fn groups(tools: &Tools) -> Result<Vec<Group>, ToolError> {
    let columns = "vg_name,vg_size,vg_free";
    let text = report(tools, "vgs", columns, None)?;
    parse_groups(&text)
}

/// Every logical volume.
///
/// # Errors
/// What `lvs` said.
pub fn volumes(tools: &Tools) -> Result<Vec<Volume>, ToolError> {
    let columns = "vg_name,lv_name,lv_uuid,vg_uuid,lv_size,lv_tags,lv_active,segtype,pool_lv,zero";
    let text = report(tools, "lvs", columns, None)?;
    parse_volumes(&text)
}

/// The volume `vg/lv`, if there is one.
///
/// # Errors
/// What `lvs` said.
pub fn volume(tools: &Tools, vg: &str, lv: &str) -> Result<Option<Volume>, ToolError> {
    Ok(volumes(tools)?
        .into_iter()
        .find(|v| v.vg == vg && v.lv == lv))
}

/// Makes a volume of at least `bytes` bytes (LVM rounds up to whole extents) with `tags`.
///
/// # Errors
/// What `lvcreate` said; also if the name is taken.
pub fn create(
    tools: &Tools,
    vg: &str,
    lv: &str,
    bytes: u64,
    tags: &[&str],
) -> Result<(), ToolError> {
    let size = format!("{bytes}b");
    // No wiping and no questions: signatures on it are leftovers of a volume that is gone, and
    // every sector of the disk's size is written and compared by the copy.
    let mut args = vec![
        "--yes",
        "--wipesignatures",
        "n",
        "--size",
        &size,
        "--name",
        lv,
    ];
    for tag in tags {
        args.extend(["--addtag", tag]);
    }
    args.push(vg);
    run(tools, "lvcreate", args).map(drop)
}

/// Makes a thin volume of at least `bytes` bytes in the pool `vg/pool`, with `tags`. It reads as zeros.
///
/// # Errors
/// What `lvcreate` said; also if the name is taken.
pub fn create_thin(
    tools: &Tools,
    vg: &str,
    pool: &str,
    lv: &str,
    bytes: u64,
    tags: &[&str],
) -> Result<(), ToolError> {
    let (size, pool) = (format!("{bytes}b"), format!("{vg}/{pool}"));
    let mut args = vec![
        "--yes",
        "--virtualsize",
        &size,
        "--thinpool",
        &pool,
        "--name",
        lv,
    ];
    for tag in tags {
        args.extend(["--addtag", tag]);
    }
    run(tools, "lvcreate", args).map(drop)
}

/// Adds and removes tags of `vg/lv`. Tags that are already so are no error to LVM.
///
/// # Errors
/// What `lvchange` said.
pub fn retag(
    tools: &Tools,
    vg: &str,
    lv: &str,
    add: &[&str],
    remove: &[&str],
) -> Result<(), ToolError> {
    let path = format!("{vg}/{lv}");
    let mut args = Vec::new();
    for tag in add {
        args.extend(["--addtag", tag]);
    }
    for tag in remove {
        args.extend(["--deltag", tag]);
    }
    args.push(&path);
    run(tools, "lvchange", args).map(drop)
}

/// Makes the device node of `vg/lv` appear.
///
/// # Errors
/// What `lvchange` said.
pub fn activate(tools: &Tools, vg: &str, lv: &str) -> Result<(), ToolError> {
    let path = format!("{vg}/{lv}");
    run(tools, "lvchange", ["--activate", "y", &path]).map(drop)
}

/// Runs one of LVM's programs, which does not look at what is not this host's own (see [`filter`]).
fn run<'a>(
    tools: &Tools,
    program: &str,
    args: impl IntoIterator<Item = &'a str>,
) -> Result<String, ToolError> {
    let ours = ["--config".to_owned(), filter::config(tools)];
    let args = args.into_iter().map(str::to_owned);
    tools.run(program, ours.into_iter().chain(args))
}

fn parse<T: DeserializeOwned>(command: &str, text: &str) -> Result<Vec<T>, ToolError> {
    let reports: Reports<T> = serde_json::from_str(text).map_err(|e| unexpected(command, e))?;
    Ok(reports.report)
}

fn bytes(command: &str, text: &str) -> Result<u64, ToolError> {
    text.parse()
        .map_err(|_| unexpected(command, format!("`{text}` as a size in bytes")))
}

fn parse_groups(text: &str) -> Result<Vec<Group>, ToolError> {
    parse::<Groups>("vgs", text)?
        .into_iter()
        .flat_map(|r| r.vg)
        .map(|row| {
            Ok(Group {
                size: bytes("vgs", &row.vg_size)?,
                free: bytes("vgs", &row.vg_free)?,
                name: row.vg_name,
            })
        })
        .collect()
}

fn parse_volumes(text: &str) -> Result<Vec<Volume>, ToolError> {
    parse::<Volumes>("lvs", text)?
        .into_iter()
        .flat_map(|r| r.lv)
        .map(|row| {
            Ok(Volume {
                size: bytes("lvs", &row.lv_size)?,
                tags: row
                    .lv_tags
                    .split(',')
                    .filter(|t| !t.is_empty())
                    .map(str::to_owned)
                    .collect(),
                active: row.lv_active.starts_with("active"),
                is_thin_pool: row.segtype == "thin-pool",
                // Volumes on a cache or VDO pool name that.
                pool: (row.segtype == "thin").then_some(row.pool_lv),
                zeroes: row.zero == "zero",
                vg: row.vg_name,
                lv: row.lv_name,
                uuid: row.lv_uuid,
                vg_uuid: row.vg_uuid,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_as_lvm_2_03_prints_them() {
        let groups = parse_groups(
            r#"{"report": [{"vg": [{"vg_name":"vg0", "vg_size":"2143289344", "vg_free":"2076180480"}]}]}"#,
        )
        .unwrap();
        assert_eq!(
            groups[0],
            Group {
                name: "vg0".into(),
                size: 2143289344,
                free: 2076180480
            }
        );
        let volumes = parse_volumes(
            r#"{"report": [{"lv": [
                {"vg_name":"vg0", "lv_name":"e1-disk0", "lv_uuid":"JZ7wMu-x", "vg_uuid":"Ab-c", "lv_size":"67108864", "lv_tags":"p2v.copying,p2v.e1.0", "lv_active":"active"},
                {"vg_name":"vg0", "lv_name":"x", "lv_uuid":"y", "lv_size":"4194304", "lv_tags":"", "lv_active":""}]}]}"#,
        )
        .unwrap();
        assert!(
            volumes[0].has_tag("p2v.e1.0") && volumes[0].has_tag(TAG_COPYING) && volumes[0].active
        );
        assert_eq!(volumes[0].dm_uuid(), "LVM-AbcJZ7wMux");
        assert!(volumes[1].tags.is_empty() && !volumes[1].active);
        assert!(parse_volumes(r#"{"report": [{"lv": [{"vg_name":"a"}]}]}"#).is_err());
        assert!(parse_groups("").is_err());
    }

    #[test]
    fn names() {
        for good in ["vg0", "e1-disk0", "a.b+c_d"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-y", ".", "..", "a/b", "a b", "@tag", "a\n"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
