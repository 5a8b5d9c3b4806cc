//! Which kernel modules go into the image, and why.
//!
//! Paths are below `kernel/` of the module tree; one that ends in `/` means everything under it.
//! What the chosen modules depend on is added by itself (see [`crate::module_index`]), so a line
//! stands here only for hardware or for something the kernel asks for by name at run time.

/// One line of the lists below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A module's path without `.ko`, or a directory with a `/` at its end.
    pub path: &'static str,
    /// Why the line is there.
    pub why: &'static str,
}

const fn rule(path: &'static str, why: &'static str) -> Rule {
    Rule { path, why }
}

/// What is taken.
pub const WANTED: &[Rule] = &[
    rule("drivers/ata/", "IDE, SATA and AHCI controllers"),
    rule("drivers/scsi/", "SCSI, SAS and RAID host adapters, and sd"),
    rule("drivers/message/fusion/", "LSI Fusion MPT: SCSI, SAS, FC"),
    rule("drivers/nvme/host/nvme", "NVMe over PCI Express"),
    rule("drivers/pci/controller/vmd", "NVMe behind Intel VMD"),
    rule(
        "drivers/block/virtio_blk",
        "machines that are virtual already",
    ),
    rule(
        "drivers/block/xen-blkfront",
        "machines that are virtual already",
    ),
    rule("drivers/block/mtip32xx/", "Micron PCI Express SSD"),
    rule("drivers/virtio/virtio_pci", "the bus under virtio devices"),
    rule("drivers/hv/hv_vmbus", "the bus under Hyper-V devices"),
    rule("drivers/net/ethernet/", "wired Ethernet"),
    rule(
        "drivers/net/phy/",
        "PHYs that MAC drivers ask for by id at run time",
    ),
    rule(
        "drivers/net/mdio/",
        "MDIO buses between the MAC and the PHY",
    ),
    rule(
        "drivers/net/virtio_net",
        "machines that are virtual already",
    ),
    rule("drivers/net/vmxnet3/", "machines that are virtual already"),
    rule("drivers/net/hyperv/", "machines that are virtual already"),
    rule(
        "drivers/net/xen-netfront",
        "machines that are virtual already",
    ),
    rule(
        "drivers/firmware/edd",
        "what the BIOS called disk 0x80: the boot disk",
    ),
    rule("crypto/crc32c_generic", "asked for by name (crypto-crc32c)"),
    rule(
        "crypto/crct10dif_common",
        "asked for by name (crypto-crct10dif)",
    ),
    rule(
        "crypto/crct10dif_generic",
        "asked for by name (crypto-crct10dif)",
    ),
];

/// What is left out of the directories above.
pub const LEFT_OUT: &[Rule] = &[
    rule(
        "drivers/scsi/be2iscsi/",
        "iSCSI offload: no such disk is the machine's own",
    ),
    rule(
        "drivers/scsi/bnx2fc/",
        "FCoE offload, needs firmware and a switch's set-up",
    ),
    rule("drivers/scsi/bnx2i/", "iSCSI offload"),
    rule("drivers/scsi/csiostor/", "FCoE offload, needs firmware"),
    rule("drivers/scsi/cxgbi/", "iSCSI offload"),
    rule("drivers/scsi/device_handler/", "multipath arrays"),
    rule("drivers/scsi/fcoe/", "FCoE in software"),
    rule("drivers/scsi/fnic/", "FCoE offload"),
    rule("drivers/scsi/qedf/", "FCoE offload, needs firmware"),
    rule("drivers/scsi/qedi/", "iSCSI offload, needs firmware"),
    rule("drivers/scsi/qla2xxx/tcm_qla2xxx", "SCSI target mode"),
    rule("drivers/scsi/qla4xxx/", "iSCSI offload"),
    rule(
        "drivers/scsi/snic/",
        "disks inside Cisco's fabric, needs its set-up",
    ),
    rule("drivers/scsi/pcmcia/", "no PCMCIA in servers"),
    rule("drivers/scsi/iscsi_tcp", "iSCSI in software"),
    rule("drivers/scsi/ch", "tape changers are not exported"),
    rule("drivers/scsi/st", "tapes are not exported"),
    rule("drivers/scsi/sr_mod", "optical drives are not exported"),
    rule(
        "drivers/scsi/sg",
        "generic commands go through the disk's own node",
    ),
    rule("drivers/scsi/ses", "enclosures"),
    rule(
        "drivers/scsi/scsi_debug",
        "a test disk: must never look like a real one",
    ),
    rule(
        "drivers/net/ethernet/broadcom/cnic",
        "only for iSCSI and FCoE offload",
    ),
];

/// Whether `path` (below `kernel/`, without `.ko`) is meant by `rule`.
fn meant(rule: &Rule, path: &str) -> bool {
    if rule.path.ends_with('/') {
        path.starts_with(rule.path)
    } else {
        path == rule.path
    }
}

/// Whether the module at `path` (below `kernel/`, without `.ko`) is taken for its own sake.
pub fn wanted(path: &str) -> bool {
    WANTED.iter().any(|r| meant(r, path)) && !LEFT_OUT.iter().any(|r| meant(r, path))
}

/// The lines of [`WANTED`] that none of `paths` answers to: hardware support that this kernel
/// does not have as a module (or has in another place). Worth saying to whoever builds the image.
pub fn unanswered<'p>(paths: impl IntoIterator<Item = &'p str> + Clone) -> Vec<Rule> {
    WANTED
        .iter()
        .filter(|r| !paths.clone().into_iter().any(|p| meant(r, p)))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_single_modules() {
        assert!(wanted("drivers/ata/ahci"));
        assert!(wanted("drivers/net/ethernet/intel/e1000/e1000"));
        assert!(wanted("drivers/scsi/sd_mod"));
        assert!(wanted("drivers/scsi/qla2xxx/qla2xxx"));
        assert!(!wanted("drivers/scsi/qla2xxx/tcm_qla2xxx"));
        assert!(!wanted("drivers/scsi/st"));
        assert!(wanted("drivers/scsi/stex"), "a name is not a prefix");
        assert!(!wanted("drivers/net/wireless/ath/ath"));
    }

    #[test]
    fn every_line_left_out_is_of_something_taken() {
        for rule in LEFT_OUT {
            assert!(
                WANTED
                    .iter()
                    .any(|w| w.path.ends_with('/') && rule.path.starts_with(w.path)),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn a_line_nothing_answers_to_is_named() {
        let all: Vec<_> = WANTED
            .iter()
            .map(|r| match r.path.strip_suffix('/') {
                Some(_) => format!("{}x", r.path),
                None => r.path.to_owned(),
            })
            .collect();
        assert!(unanswered(all.iter().map(String::as_str)).is_empty());
        let left = unanswered(all.iter().skip(1).map(String::as_str));
        assert_eq!(left, [WANTED[0]]);
    }
}
