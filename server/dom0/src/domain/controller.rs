//! The disk controller: the one the old system has a driver for, where QEMU has it.

use super::Chosen;

/// A disk controller of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// PIIX IDE: `hda` to `hdd`.
    Ide,
    /// ICH9 AHCI: `hdtype="ahci"`.
    Ahci,
    /// LSI 53c895a: `sda` and on.
    Lsi,
    /// One that QEMU has and `xl` has no key for: given by `device_model_args_hvm`.
    Qemu(&'static str),
}

impl Controller {
    /// Its name in messages.
    pub fn label(self) -> &'static str {
        match self {
            Controller::Ide => "IDE",
            Controller::Ahci => "AHCI",
            Controller::Lsi => "LSI 53c895a",
            Controller::Qemu(model) => model,
        }
    }

    /// How many disks it takes (libxl's `libxl_dm.c` for IDE and AHCI; narrow SCSI has ids 0 to 6
    /// beside the controller's own 7; a PCI wide one 15, of which we use no more than 8).
    pub fn most_disks(self) -> usize {
        match self {
            Controller::Ide => 4,
            Controller::Ahci => 6,
            Controller::Lsi | Controller::Qemu("am53c974") => 7,
            Controller::Qemu(_) => 8,
        }
    }

    /// `xl`'s vdev of the `index`-th disk; `None` if `xl` has no key for this controller.
    pub fn vdev(self, index: usize) -> Option<String> {
        let letter = char::from(b'a' + u8::try_from(index).ok().filter(|i| *i < 26)?);
        match self {
            // xl-disk-configuration(5): `hd` ends at hdd, and xvde on AHCI is its fifth port.
            Controller::Ahci if index >= 4 => Some(format!("xvd{letter}")),
            Controller::Ide | Controller::Ahci => Some(format!("hd{letter}")),
            Controller::Lsi => Some(format!("sd{letter}")),
            Controller::Qemu(_) => None,
        }
    }
}

/// The controller for a boot disk that hung on one with the Linux driver `driver`.
pub(super) fn choose(driver: &str, disks: usize) -> Chosen<Controller> {
    let matched = match driver {
        "ata_piix" | "ata_generic" | "piix" | "ide" => Some(Controller::Ide),
        d if d.starts_with("pata_") => Some(Controller::Ide),
        "ahci" => Some(Controller::Ahci),
        "sym53c8xx" => Some(Controller::Lsi),
        "megaraid_sas" => Some(Controller::Qemu("megasas")),
        "mptsas" => Some(Controller::Qemu("mptsas1068")),
        "am53c974" => Some(Controller::Qemu("am53c974")),
        "vmw_pvscsi" => Some(Controller::Qemu("pvscsi")),
        _ => None,
    };
    let shown = if driver.is_empty() {
        "an unknown driver"
    } else {
        driver
    };
    match matched {
        Some(controller) => Chosen::new(
            controller,
            format!(
                "{}: the old machine's disks hang on a controller of that kind (driver {shown}), so the old system \
                 has its driver",
                controller.label()
            ),
        ),
        None => {
            let controller = if disks <= Controller::Ide.most_disks() {
                Controller::Ide
            } else {
                Controller::Ahci
            };
            Chosen::new(
                controller,
                format!(
                    "{}: QEMU has no controller like the old one ({shown}). If the system does not find its disk: a \
                     Linux initramfs may need ata_piix (or ahci), an old Windows its IDE driver enabled (stop 0x7B); \
                     its disks are now called hda or sda",
                    controller.label()
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_has_is_matched_and_the_rest_explained() {
        for (driver, controller) in [
            ("ata_piix", Controller::Ide),
            ("pata_via", Controller::Ide),
            ("ahci", Controller::Ahci),
            ("sym53c8xx", Controller::Lsi),
            ("megaraid_sas", Controller::Qemu("megasas")),
            ("vmw_pvscsi", Controller::Qemu("pvscsi")),
        ] {
            let chosen = choose(driver, 1);
            assert_eq!(chosen.value, controller);
            assert!(chosen.why.contains(driver));
        }
        for driver in ["aacraid", "hpsa", "nvme", "virtio_blk", ""] {
            let chosen = choose(driver, 1);
            assert_eq!(chosen.value, Controller::Ide);
            assert!(chosen.why.contains("no controller like"));
            assert_eq!(choose(driver, 5).value, Controller::Ahci);
        }
    }

    #[test]
    fn vdevs() {
        assert_eq!(Controller::Ide.vdev(3).unwrap(), "hdd");
        assert_eq!(Controller::Ahci.vdev(5).unwrap(), "xvdf");
        assert_eq!(Controller::Lsi.vdev(0).unwrap(), "sda");
        assert_eq!(Controller::Qemu("megasas").vdev(0), None);
    }
}
