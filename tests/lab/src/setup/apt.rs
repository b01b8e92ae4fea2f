//! Debian packages without installing them: apt with lists, state and preferences of its own, so that the machine's settings
//! stay as they are. Packages come from the mirror that the machine itself uses, of the release that has what the lab needs.

use super::{Setup, packages};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const RELEASE: &str = "trixie";

/// apt with a life of its own below one directory.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Prepares the directory and fetches the lists.
    pub(super) fn prepare(setup: &Setup) -> Result<Self> {
        packages::require(setup, packages::FETCH, "fetching Debian packages")?;
        if !Path::new(KEYRING).exists() {
            bail!(
                "this is not Debian ({KEYRING} is missing), so the lab cannot fetch Debian's packages\n  \
                 fix      install QEMU 11.1 or newer (qemu-system-x86_64 on the path) and use --kernel host"
            );
        }
        let dir = setup.cache.path("apt");
        for sub in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let mirror = mirror().context(
            "no Debian mirror found in apt's sources\n  fix      add Debian's main archive to /etc/apt/sources.list.d",
        )?;
        let sources: String = [RELEASE.to_owned(), format!("{RELEASE}-backports")]
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .collect();
        put(&dir.join("sources.list"), &sources)?;
        put(
            &dir.join("preferences"),
            &format!("Package: *\nPin: release n={RELEASE}-backports\nPin-Priority: 600\n"),
        )?;
        // With nothing installed, apt resolves a package's whole closure, the C library included.
        put(&dir.join("status"), "")?;
        let apt = Self { dir };
        setup.progress.step(
            "fetch Debian's package lists",
            None,
            "check the network and apt's proxy settings",
            |step| step.run(apt.get().arg("update")),
        )?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let option = |name: &str, path: &str| format!("{name}={}", self.dir.join(path).display());
        for setting in [
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            option("Dir::Etc::SourceList", "sources.list"),
            option("Dir::Etc::Preferences", "preferences"),
            option("Dir::State::Lists", "lists"),
            option("Dir::State::status", "status"),
            option("Dir::Cache::archives", "archives"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ] {
            command.args(["-o", &setting]);
        }
        command
            .arg("-q")
            .env("LC_ALL", "C")
            .current_dir(self.dir.join("archives"));
        command
    }

    /// Names and versions of the packages that installing `package` would bring.
    pub(super) fn closure(&self, package: &str) -> Result<Vec<(String, String)>> {
        let output = self
            .get()
            .args(["-s", "--no-install-recommends", "install", package])
            .output()?;
        if !output.status.success() {
            bail!(
                "apt-get -s install {package}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        // `Inst NAME (VERSION RELEASE [ARCH])`
        let text = String::from_utf8_lossy(&output.stdout);
        let parse = |line: &str| {
            let mut words = line.strip_prefix("Inst ")?.split(' ');
            Some((
                words.next()?.to_owned(),
                words.next()?.trim_start_matches('(').to_owned(),
            ))
        };
        Ok(text.lines().filter_map(parse).collect())
    }

    /// Downloads packages and unpacks them below `into`.
    pub(super) fn unpack(&self, step: &mut crate::Step, packages: &[(String, String)], into: &Path) -> Result<()> {
        let archives = self.dir.join("archives");
        for entry in fs::read_dir(&archives)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                fs::remove_file(entry.path())?;
            }
        }
        step.run(
            self.get()
                .arg("download")
                .args(packages.iter().map(|(name, version)| format!("{name}={version}"))),
        )?;
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                step.run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    File::create(path)?
        .write_all(text.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

/// The mirror of Debian's main archive in the machine's own settings: of a stanza that Debian's keyring signs, or of a `deb` line.
fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    files.sort();
    files
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .find_map(|bytes| mirror_in(&String::from_utf8_lossy(&bytes)))
}

/// The main archive's path ends in `/debian`; those of security updates and of others do not.
fn mirror_in(sources: &str) -> Option<String> {
    sources
        .lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats_and_foreign_archives_are_passed_over() {
        let deb822 = "Types: deb\nURIs: http://mirror.example/debian-security\n\nTypes: deb\n# a comment\nURIs: http://mirror.example/debian\n";
        assert_eq!(mirror_in(deb822).as_deref(), Some("http://mirror.example/debian"));
        let lines = "deb https://packages.example/apt tool main\ndeb [arch=amd64] http://mirror.example/debian/ bookworm main\n";
        assert_eq!(mirror_in(lines).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(mirror_in("# deb http://mirror.example/debian bookworm main\n"), None);
    }
}
