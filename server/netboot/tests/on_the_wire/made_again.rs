//! The interface is taken away and made again while it is served.

use std::process::Command;

use p2v_netboot::Mode;

use crate::lab::{CLIENT_END, Lab, SERVER, SERVER_END, run};

#[test]
fn an_interface_that_was_made_again_ends_the_service_which_can_then_be_started_again() {
    let lab = Lab::new();
    let service = lab.serve(lab.settings(Mode::Dhcp));
    let batch = format!(
        "link del {SERVER_END}\n\
         link add {SERVER_END} type veth peer name {CLIENT_END} netns {}\n\
         addr add {SERVER}/24 dev {SERVER_END}\n\
         link set {SERVER_END} up\n",
        lab.client.0
    );
    let file = lab.path("batch");
    std::fs::write(&file, batch).unwrap();
    run(Command::new("ip")
        .args(["-n", &lab.server.0, "-batch"])
        .arg(&file));
    // Gone, or made again: it may look in between.
    let error = service.failure().to_string();
    assert!(error.contains(SERVER_END), "{error}");
    assert!(error.contains("has to be started again"), "{error}");
    lab.serve(lab.settings(Mode::Dhcp)).end().unwrap();
}
