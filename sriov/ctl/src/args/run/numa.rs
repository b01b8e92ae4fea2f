//! `--numa`: the NUMA nodes of a guest.

use super::MemorySize;
use std::str::FromStr;

/// Nodes that a guest is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Numa {
    /// So many, which share CPUs and memory evenly.
    Even(u8),
    /// One of them.
    Node(NumaNode),
}

/// A node; what is not said is shared evenly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NumaNode {
    /// The first and the last of its CPUs.
    pub(crate) cpus: Option<(u16, u16)>,
    pub(crate) memory: Option<MemorySize>,
    /// The node of the host that its memory comes from.
    pub(crate) host: Option<u32>,
}

impl FromStr for Numa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse() {
            return Ok(Self::Even(count));
        }
        let mut node = NumaNode::default();
        for part in text.split(',') {
            let is_new = match part.split_once('=') {
                Some(("cpus", cpus)) => node.cpus.replace(range(cpus)?).is_none(),
                Some(("memory", size)) => node.memory.replace(size.parse()?).is_none(),
                Some(("host", number)) => {
                    let number = number.parse();
                    let number = number.map_err(|_not_a_number| "expected host=NODE, a number".to_owned())?;
                    node.host.replace(number).is_none()
                }
                _ => {
                    let expected = "a number of nodes, or of one node cpus=FIRST-LAST, memory=SIZE, host=NODE";
                    return Err(format!("{part:?} is none of what is expected: {expected}"));
                }
            };
            if !is_new {
                return Err(format!("{part:?} is the second of its kind"));
            }
        }
        Ok(Self::Node(node))
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok().zip(last.parse().ok());
    let range = range.filter(|(first, last)| first <= last);
    range.ok_or_else(|| "expected cpus=FIRST-LAST, such as cpus=0-3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_or_described() {
        let numa = |text: &str| text.parse::<Numa>();
        assert_eq!(numa("2"), Ok(Numa::Even(2)));
        let node = NumaNode {
            cpus: Some((0, 1)),
            memory: Some("512M".parse().unwrap()),
            host: Some(1),
        };
        assert_eq!(numa("cpus=0-1,memory=512M,host=1"), Ok(Numa::Node(node)));
        let host = NumaNode {
            host: Some(0),
            ..NumaNode::default()
        };
        assert_eq!(numa("host=0"), Ok(Numa::Node(host)));
        let cpu = NumaNode {
            cpus: Some((3, 3)),
            ..NumaNode::default()
        };
        assert_eq!(numa("cpus=3"), Ok(Numa::Node(cpu)));
        for wrong in [
            "",
            "-1",
            "256",
            "x",
            "cpus",
            "cpus=1-0",
            "cpus=0-",
            "memory=1",
            "host=",
            "host=a",
            "host=0,host=1",
            "cpu=0",
        ] {
            assert!(numa(wrong).is_err(), "{wrong}");
        }
    }
}
