//! The kernel's configuration: allnoconfig with our settings.

use super::files::{get, put};
use super::make::Make;
use anyhow::bail;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes `.config`, or leaves the one that says the same.
///
/// # Errors
/// A setting didn't survive: its name is wrong, or something that it depends on isn't set.
pub(super) fn configure(make: &Make, source: &Path, configs: &[PathBuf]) -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    for path in configs {
        wanted.extend(get(path)?);
    }
    let wanted = String::from_utf8(wanted)?;
    let fragment = source.join("farspace.config");
    put(&fragment, wanted.as_bytes())?;
    // make goes by the time of .config.
    let (config, before) = (source.join(".config"), source.join(".config.before"));
    let had = config.exists();
    if had {
        fs::rename(&config, &before)?;
    }
    make.configuration(&fragment)?;
    let now = get(&config)?;
    if had && get(&before)? == now {
        fs::rename(&before, &config)?;
    }
    let lost = lost(&wanted, &String::from_utf8_lossy(&now));
    if !lost.is_empty() {
        bail!("this kernel can't be configured so: {}", lost.join(", "));
    }
    Ok(())
}

/// The settings that didn't take effect. A later one wins over an earlier one.
fn lost(wanted: &str, config: &str) -> Vec<String> {
    let has = |line: &str| config.lines().any(|found| found == line);
    let settings = wanted.lines().filter(|line| line.starts_with("CONFIG_"));
    let mut lost = Vec::new();
    for setting in settings.clone() {
        let Some((name, value)) = setting.split_once('=') else {
            lost.push(setting.to_owned());
            continue;
        };
        let last =
            settings.clone().rfind(|other| other.split_once('=').is_some_and(|(other, _)| other == name));
        let there = match value {
            "n" => !config.lines().any(|found| found.starts_with(&format!("{name}="))),
            _ => has(setting),
        };
        if last == Some(setting) && !there {
            lost.push(setting.to_owned());
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::lost;

    #[test]
    fn settings_that_did_not_survive_are_found() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=8\n";
        assert!(lost("# words\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=8\n", config).is_empty());
        assert!(lost("CONFIG_C=4\nCONFIG_C=8\n", config).is_empty());
        assert_eq!(lost("CONFIG_A=n\nCONFIG_B=y\n", config), ["CONFIG_A=n", "CONFIG_B=y"]);
    }
}
