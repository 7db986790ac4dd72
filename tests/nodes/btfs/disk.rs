//! The folder of the stand-in: blocks by digest, pins, name records.
//!
//! | file | content |
//! |---|---|
//! | `blocks/HEX` | a block, by its SHA-256, whatever its CID's form |
//! | `pins/CID` | a recursive pin |
//! | `names/NAME` | a record |

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use cid::Cid;
use prost::Message;

/// Multicodec of raw bytes.
pub(super) const RAW: u64 = 0x55;

pub(super) struct Disk {
    folder: PathBuf,
    /// Collection and pinning exclude each other.
    pub(super) gate: Mutex<()>,
}

/// A dag-pb node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PbNode {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) links: Vec<PbLink>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PbLink {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) hash: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(uint64, tag = "3")]
    pub(super) size: u64,
}

impl Disk {
    pub(super) fn open(folder: &Path) -> Self {
        for name in ["blocks", "pins", "names"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        Self {
            folder: folder.to_owned(),
            gate: Mutex::default(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn block(&self, cid: &Cid) -> PathBuf {
        let digest = data_encoding::HEXLOWER.encode(cid.hash().digest());
        self.folder.join("blocks").join(digest)
    }

    pub(super) fn put(&self, cid: &Cid, data: &[u8]) {
        self.write(&self.block(cid), data);
    }

    /// Whole or not at all.
    pub(super) fn write(&self, file: &Path, data: &[u8]) {
        let new = tempfile::NamedTempFile::new_in(&self.folder).expect("a file");
        fs::write(new.path(), data).expect("a file");
        new.persist(file).expect("a file");
    }

    pub(super) fn get(&self, cid: &Cid) -> Option<Vec<u8>> {
        fs::read(self.block(cid)).ok()
    }

    pub(super) fn remove(&self, cid: &Cid) {
        let _ = fs::remove_file(self.block(cid));
    }

    pub(super) fn pin(&self, cid: &Cid) {
        self.write(&self.folder.join("pins").join(cid.to_string()), b"");
    }

    /// Whether it was pinned.
    pub(super) fn unpin(&self, cid: &Cid) -> bool {
        fs::remove_file(self.folder.join("pins").join(cid.to_string())).is_ok()
    }

    pub(super) fn is_pinned(&self, cid: &Cid) -> bool {
        self.folder.join("pins").join(cid.to_string()).exists()
    }

    /// The root under whose pin it is: itself, or one above it.
    pub(super) fn pinned_through(&self, cid: &Cid) -> Option<Cid> {
        if self.is_pinned(cid) {
            return Some(*cid);
        }
        let mut roots = self.pins().into_iter();
        roots.find(|root| self.found_below(root).contains(cid))
    }

    /// Every block that is here, in raw form: of a block's CID it keeps the hash alone.
    pub(super) fn keys(&self) -> Vec<Cid> {
        let files = fs::read_dir(self.folder.join("blocks")).expect("a folder");
        files
            .flatten()
            .filter_map(|file| raw_key(&file.path()))
            .collect()
    }

    pub(super) fn pins(&self) -> Vec<Cid> {
        let files = fs::read_dir(self.folder.join("pins")).expect("a folder");
        files
            .flatten()
            .filter_map(|file| file.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// The links of a block; `None` when it is not there.
    pub(super) fn links(&self, cid: &Cid) -> Option<Vec<Cid>> {
        if cid.codec() == RAW {
            return self.block(cid).exists().then(Vec::new);
        }
        let node = PbNode::decode(self.get(cid)?.as_slice()).ok()?;
        let links = node
            .links
            .iter()
            .map(|link| Cid::try_from(link.hash.as_slice()));
        links.collect::<Result<_, _>>().ok()
    }

    /// All below `root` that `known` does not have; `None` while some of it is missing.
    pub(super) fn below(&self, root: &Cid, known: &HashSet<Cid>) -> Option<HashSet<Cid>> {
        let (mut all, mut front) = (HashSet::new(), vec![*root]);
        while let Some(cid) = front.pop() {
            if !known.contains(&cid) && all.insert(cid) {
                front.extend(self.links(&cid)?);
            }
        }
        Some(all)
    }

    /// As far as it is there.
    pub(super) fn found_below(&self, root: &Cid) -> HashSet<Cid> {
        let (mut all, mut front) = (HashSet::new(), vec![*root]);
        while let Some(cid) = front.pop() {
            if all.insert(cid) {
                front.extend(self.links(&cid).unwrap_or_default());
            }
        }
        all
    }

    /// Deletes what no pin reaches, and, as go-btfs does, what is reached under a CIDv1 that is not
    /// raw; an error when a pinned tree is not whole.
    pub(super) fn collect(&self) -> Result<Vec<Cid>, String> {
        let _one = self.gate.lock().expect("a lock");
        let mut kept = HashSet::new();
        for root in self.pins() {
            let all = self
                .below(&root, &HashSet::new())
                .ok_or_else(|| {
                    format!(
                        "could not retrieve links for {root}: ipld: could not find it; garbage collection aborted: \
                         could not retrieve some links"
                    )
                })?;
            let survives = |cid: &&Cid| cid.version() == cid::Version::V0 || cid.codec() == RAW;
            kept.extend(all.iter().filter(survives).map(|cid| self.block(cid)));
        }
        let mut gone = Vec::new();
        for file in fs::read_dir(self.folder.join("blocks"))
            .expect("a folder")
            .flatten()
        {
            if !kept.contains(&file.path()) {
                fs::remove_file(file.path()).expect("removed");
                gone.extend(raw_key(&file.path()));
            }
        }
        Ok(gone)
    }
}

/// The raw CID of the block in a file.
fn raw_key(file: &Path) -> Option<Cid> {
    let digest = data_encoding::HEXLOWER.decode(file.file_name()?.as_encoded_bytes());
    let hash = multihash::Multihash::wrap(0x12, &digest.ok()?).ok()?;
    Some(Cid::new_v1(RAW, hash))
}
