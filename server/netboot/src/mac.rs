//! A MAC address as people and their tools write it.

use std::collections::BTreeMap;

use pnet::util::MacAddr;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no MAC address: one is written like 52:54:00:12:34:56")]
pub struct MacError(String);

/// Reads `52:54:00:12:34:56` (or `52:54:0:12:34:56`), and the same as Windows (`52-54-00-12-34-56`), switches
/// (`5254.0012.3456`) and labels (`525400123456`) have it.
///
/// # Errors
/// It is none of these.
pub fn parse_mac(text: &str) -> Result<MacAddr, MacError> {
    let refused = || MacError(text.to_owned());
    let parts_of = |separator, digits: usize, shorter| {
        let parts: Vec<&str> = text.trim().split(separator).collect();
        // One that leaves zeros out leaves them out everywhere: else a digit is missing.
        let shorter = shorter && !parts.iter().any(|p| p.len() > 1 && p.starts_with('0'));
        let fits = |part: &&str| part.len() == digits || shorter && part.len() == 1;
        let fits = parts.len() * digits == 12 && parts.iter().all(fits);
        fits.then(|| parts.iter().map(|part| format!("{part:0>digits$}")))
            .map(Iterator::collect::<String>)
    };
    let digits = parts_of(':', 2, true)
        .or_else(|| parts_of('-', 2, true))
        .or_else(|| parts_of('.', 4, false))
        .or_else(|| parts_of(' ', 12, false))
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .ok_or_else(refused)?;
    let number = u64::from_str_radix(&digits, 16).map_err(|_| refused())?;
    let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
    Ok(MacAddr::new(a, b, c, d, e, f))
}

/// For serde: a list of addresses.
///
/// # Errors
/// One of them is none.
pub fn list_of_macs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<MacAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let macs = texts.iter().map(|text| parse_mac(text));
    macs.collect::<Result<_, _>>().map_err(Error::custom)
}

/// For serde: what is said of each of some addresses.
///
/// # Errors
/// One of them is none, or is there twice, in two ways of writing: one of the two would count, and nobody
/// would know which.
pub fn by_mac<'de, D, T>(from: D) -> Result<BTreeMap<MacAddr, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let mut all = BTreeMap::new();
    for (text, value) in BTreeMap::<String, T>::deserialize(from)? {
        let mac = parse_mac(&text).map_err(Error::custom)?;
        if all.insert(mac, value).is_some() {
            return Err(Error::custom(format!(
                "{mac} is there twice, once written as `{text}`: say all of it in one place"
            )));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_in_all_its_spellings() {
        let mac = MacAddr::new(0x52, 0x54, 0, 0xab, 0x34, 0x56);
        for text in [
            "52:54:00:ab:34:56",
            "52:54:00:AB:34:56",
            "52-54-00-AB-34-56",
            "5254.00ab.3456",
            "525400ab3456",
            "52:54:0:AB:34:56",
            " 52:54:00:ab:34:56\n",
        ] {
            assert_eq!(parse_mac(text), Ok(mac), "{text:?}");
        }
        for text in [
            "",
            "52:54:00:ab:34",
            "52:54:00:ab:34:",
            "52:54:00:ab:34:5",
            "5254.0ab.3456",
            "52:54:00:ab:34:+6",
            "52:54:00:ab:34:56:78",
            "52:54-00:ab-34:56",
            "52:54:00:ab:34:5é",
            "525400ab345é",
            "525400ab3456 525400ab3456",
            "*",
        ] {
            let error = parse_mac(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn what_is_said_of_one_address_is_said_once() {
        let read = |text: &str| by_mac::<_, u8>(toml::Deserializer::parse(text).unwrap());
        let mac = MacAddr::new(0x52, 0x54, 0, 0xab, 0x34, 0x56);
        assert_eq!(
            read("'52-54-00-AB-34-56' = 1").unwrap(),
            BTreeMap::from([(mac, 1)])
        );
        let twice = read("'52-54-00-AB-34-56' = 1\n'52:54:00:ab:34:56' = 2").unwrap_err();
        let twice = twice.to_string();
        assert!(
            twice.contains("52:54:00:ab:34:56 is there twice"),
            "{twice}"
        );
        assert!(read("nonsense = 1").is_err());
    }
}
