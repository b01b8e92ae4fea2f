//! What blocks hold, from one run to the next.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// The versions of blocks, and the seed that they were written with.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) seed: u64,
    pub(crate) versions: Vec<u32>,
}

impl State {
    /// What a file says, and that it says it; else zeros.
    pub(crate) fn load(file: Option<&Path>, seed: u64, blocks: usize) -> Result<(Self, bool)> {
        let Some(file) = file.filter(|file| file.exists()) else {
            let versions = vec![0; blocks];
            return Ok((Self { seed, versions }, false));
        };
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let (seed, rest) = bytes.split_first_chunk().context("a file without a seed")?;
        let versions = rest.chunks_exact(4).map(|bytes| {
            let bytes = bytes.try_into().unwrap_or_default();
            u32::from_le_bytes(bytes)
        });
        let state = Self {
            seed: u64::from_le_bytes(*seed),
            versions: versions.collect(),
        };
        ensure!(
            state.versions.len() == blocks,
            "{} has versions of {} blocks instead of {blocks}",
            file.display(),
            state.versions.len()
        );
        Ok((state, true))
    }

    /// Writes the file.
    pub(crate) fn save(&self, file: Option<&Path>) -> Result<()> {
        let Some(file) = file else { return Ok(()) };
        let created = File::create(file).with_context(|| format!("create {}", file.display()))?;
        let mut to = BufWriter::new(created);
        to.write_all(&self.seed.to_le_bytes())?;
        for version in &self.versions {
            to.write_all(&version.to_le_bytes())?;
        }
        to.flush()?;
        Ok(())
    }
}
