//! What must not happen to data when something else goes wrong.

use super::*;

#[test]
fn one_disk_that_takes_no_orders_does_not_keep_the_others_writable() {
    let lab = lab(2);
    lab.start().unwrap();
    lab.machine().deaf = Some(0);
    lab.machine().orders.clear();
    let error = text(lab.stop());
    assert!(error.contains("e1.0: does not answer"), "{error}");
    assert_eq!(lab.machine().orders, ["ReadOnly"], "disk 1 is read-only");

    // And write access is not given to what comes after a disk that refuses it.
    lab.machine().orders.clear();
    let error = text(lab.start());
    assert!(error.contains("does not answer"), "{error}");
    assert!(!lab.machine().orders.contains(&"ReadWrite".to_owned()));
}

#[test]
fn no_orders_to_a_machine_that_restarted_since_it_was_contacted() {
    let lab = lab(1);
    lab.machine().restarts_after = Some(1);
    let error = text(lab.start());
    assert!(error.contains("restarted just now"), "{error}");
    assert!(lab.machine().orders.is_empty());
    assert!(!lab.machine().writable);
}
