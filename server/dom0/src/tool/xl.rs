//! `xl`, the one place that runs it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ToolError, Tools, unexpected};

/// A domain as Xen knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// It is paused.
    pub is_paused: bool,
    /// What its disks are in dom0. Empty also when `xl` could not tell (a domain that is going).
    pub disks: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Listed {
    domid: u32,
    #[serde(default)]
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    c_info: Info,
    disks: Vec<Disk>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Disk {
    #[serde(default)]
    pdev_path: Option<String>,
}

/// Every domain, dom0 included.
///
/// # Errors
/// `xl` is missing, failed, or printed what we do not know.
pub fn domains(tools: &Tools) -> Result<Vec<Domain>, ToolError> {
    // `xl list -l` leaves out domains whose config it cannot get (being created or torn down), so
    // the plain list says which there are and the long one what disks they have. Short one last:
    // a domain made in between is then in it.
    let long = tools.run("xl", ["list", "-l"])?;
    let short = tools.run("xl", ["list"])?;
    let mut domains = parse_short(&short)?;
    for detail in parse_long(&long)? {
        match domains.iter_mut().find(|d| d.id == detail.id) {
            Some(domain) => domain.disks = detail.disks,
            None => domains.push(detail),
        }
    }
    Ok(domains)
}

/// The domain called `name`, if it exists (also while it is being torn down).
///
/// # Errors
/// As [`domains`].
pub fn domain(tools: &Tools, name: &str) -> Result<Option<Domain>, ToolError> {
    Ok(domains(tools)?.into_iter().find(|d| d.name == name))
}

/// Starts a domain from a config file.
///
/// # Errors
/// What `xl` said.
pub fn create(tools: &Tools, config: &Path) -> Result<(), ToolError> {
    tools
        .run("xl", ["create".as_ref(), config.as_os_str()])
        .map(drop)
}

/// Parses a config file without starting anything, and returns the disks' paths as `xl` read them.
///
/// # Errors
/// What `xl` said is wrong with it.
pub fn check(tools: &Tools, config: &Path) -> Result<Vec<PathBuf>, ToolError> {
    let text = tools.run("xl", ["-N".as_ref(), "create".as_ref(), config.as_os_str()])?;
    parse_checked(&text)
}

/// Ends a domain at once.
///
/// # Errors
/// What `xl` said.
pub fn destroy(tools: &Tools, name: &str) -> Result<(), ToolError> {
    tools.run("xl", ["destroy", name]).map(drop)
}

/// Stops a domain's processors.
///
/// # Errors
/// What `xl` said.
pub fn pause(tools: &Tools, name: &str) -> Result<(), ToolError> {
    tools.run("xl", ["pause", name]).map(drop)
}

/// Lets them run again.
///
/// # Errors
/// What `xl` said.
pub fn unpause(tools: &Tools, name: &str) -> Result<(), ToolError> {
    tools.run("xl", ["unpause", name]).map(drop)
}

/// Asks a domain to shut down: by its PV driver, else by the power button.
///
/// # Errors
/// What `xl` said.
pub fn shutdown(tools: &Tools, name: &str) -> Result<(), ToolError> {
    tools.run("xl", ["shutdown", "-F", name]).map(drop)
}

/// `xl info` as key and value.
///
/// # Errors
/// What `xl` said: usually that this is not Xen.
pub fn info(tools: &Tools) -> Result<Vec<(String, String)>, ToolError> {
    let text = tools.run("xl", ["info"])?;
    Ok(text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
        .collect())
}

fn parse_short(text: &str) -> Result<Vec<Domain>, ToolError> {
    // Name                    ID   Mem VCPUs      State   Time(s)
    text.lines()
        .skip_while(|l| !l.starts_with("Name"))
        .skip(1)
        .map(|line| {
            // From the right: a name may hold spaces, the five columns after it do not.
            let mut rest = line.trim_end();
            let mut columns = [""; 5];
            for column in columns.iter_mut().rev() {
                let at = rest.rfind(char::is_whitespace).unwrap_or(0);
                *column = rest[at..].trim();
                rest = rest[..at].trim_end();
            }
            let [id, _, _, state, _] = columns;
            let name = Some(rest).filter(|r| !r.is_empty());
            match (id.parse(), name) {
                (Ok(id), Some(name)) => Ok(Domain {
                    id,
                    name: name.to_owned(),
                    is_paused: state.contains('p'),
                    disks: Vec::new(),
                }),
                _ => Err(unexpected("xl list", format!("the line `{line}`"))),
            }
        })
        .collect()
}

fn parse_long(text: &str) -> Result<Vec<Domain>, ToolError> {
    let listed: Vec<Listed> =
        serde_json::from_str(text).map_err(|e| unexpected("xl list -l", e))?;
    Ok(listed
        .into_iter()
        .map(|l| Domain {
            id: l.domid,
            name: l.config.c_info.name.unwrap_or_default(),
            is_paused: false,
            disks: paths(l.config.disks),
        })
        .collect())
}

fn parse_checked(text: &str) -> Result<Vec<PathBuf>, ToolError> {
    // A line `Parsing config from ...` may come first.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let config: Config = serde_json::from_str(json).map_err(|e| unexpected("xl -N create", e))?;
    Ok(paths(config.disks))
}

fn paths(disks: Vec<Disk>) -> Vec<PathBuf> {
    disks
        .into_iter()
        .filter_map(|d| d.pdev_path)
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // As Xen 4.17 prints them.
    const SHORT: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
        Domain-0                                     0  1536     2     r-----      41.2\n\
        web1                                         3   512     1     -b----       7.9\n\
        two words                                    4   512     1     --ps-d       7.9\n";
    const LONG: &str = r#"[
        {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {}}},
        {"domid": 3, "config": {"c_info": {"type": "hvm", "name": "web1"}, "b_info": {"max_vcpus": 1},
            "disks": [{"pdev_path": "/dev/mapper/p2v-web1-0", "vdev": "hda", "backend": "phy"},
                      {"vdev": "hdc", "removable": 1}]}}]"#;

    #[test]
    fn both_lists_together() {
        let short = parse_short(SHORT).unwrap();
        assert_eq!(
            short
                .iter()
                .map(|d| (d.id, d.name.as_str()))
                .collect::<Vec<_>>(),
            [(0, "Domain-0"), (3, "web1"), (4, "two words")]
        );
        assert_eq!(
            short.iter().map(|d| d.is_paused).collect::<Vec<_>>(),
            [false, false, true]
        );
        let long = parse_long(LONG).unwrap();
        assert_eq!(long[1].disks, [PathBuf::from("/dev/mapper/p2v-web1-0")]);
        assert!(parse_short("Name ID\ngarbage\n").is_err());
        assert!(parse_long("[{]").is_err());
    }

    #[test]
    fn a_checked_config_names_its_disks() {
        let text = "Parsing config from /etc/xen/web1.cfg\n{\"c_info\": {\"name\": \"web1\"}, \
                    \"disks\": [{\"pdev_path\": \"/dev/mapper/p2v-web1-0\", \"vdev\": \"hda\"}]}";
        assert_eq!(
            parse_checked(text).unwrap(),
            [PathBuf::from("/dev/mapper/p2v-web1-0")]
        );
        assert!(parse_checked("nothing").is_err());
    }
}
