//! What changes namespaces, and what destroys data.

use super::{Fake, default};
use crate::ErrorKind;
use crate::fake::nvme::{Abilities, Options};
use crate::nvme::spec::log::SanitizeState;
use crate::nvme::{Create, DestroyData, Format, Sanitize};

#[test]
fn a_namespace_is_made_attached_detached_and_deleted() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let own = controller.identity().cntlid.get();
    let create = Create {
        blocks: 4096,
        capacity: 4096,
        lba_format: 1,
        is_extended: false,
        is_shared: true,
    };
    let id = controller.create_namespace(create).unwrap();
    assert_eq!(controller.allocated_namespaces().unwrap(), [1, id]);
    assert_eq!(controller.namespaces().unwrap(), [1]);
    assert_eq!(controller.identify_allocated(id).unwrap().nsze.get(), 4096);
    controller.attach_namespace(id, &[own]).unwrap();
    assert_eq!(controller.attached_controllers(id).unwrap(), [own]);
    let namespace = controller.namespace(id).unwrap();
    assert_eq!((namespace.blocks, namespace.lba_bytes), (4096, 4096));
    assert!(!controller.identifiers(id).unwrap().is_empty());
    assert!(matches!(
        controller.attach_namespace(id, &[own]).unwrap_err().kind,
        ErrorKind::Refused(_)
    ));
    controller.detach_namespace(id, &[own, own]).unwrap();
    assert_eq!(controller.namespaces().unwrap(), [1]);
    assert!(matches!(
        controller.detach_namespace(id, &[]).unwrap_err().kind,
        ErrorKind::Invalid(_)
    ));
    let yes = DestroyData::on(&controller.identity().serial());
    controller.delete_namespace(&yes, Some(id)).unwrap();
    assert_eq!(controller.allocated_namespaces().unwrap(), [1]);
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn what_is_known_of_a_namespace_ends_before_it_changes_and_again_after() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    let changes = || controller.shared.epoch.current().changes();
    let yes = DestroyData::on("FAKE0001");
    let own = controller.identity().cntlid.get();
    let calls: [&dyn Fn() -> crate::Result<()>; 4] = [
        &|| controller.format(&yes, Some(1), Format::default()),
        &|| controller.detach_namespace(1, &[own]),
        &|| controller.attach_namespace(1, &[own]),
        &|| controller.delete_namespace(&yes, Some(1)),
    ];
    for call in calls {
        let before = changes();
        call().unwrap();
        assert!(changes() - before >= 2);
    }
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn data_is_destroyed_only_where_that_was_said() {
    let fake = Fake::new(default());
    let controller = fake.open().unwrap();
    fake.nvme.set_blocks(1, 0, &[7; 512]).unwrap();
    let (yes, no) = (DestroyData::on("FAKE0001"), DestroyData::on("FAKE0002"));
    let format = Format {
        lba_format: 1,
        ..Format::default()
    };
    let block_erase = Sanitize::BlockErase;
    assert!(matches!(
        controller.format(&no, Some(1), format).unwrap_err().kind,
        ErrorKind::Invalid(_)
    ));
    assert!(matches!(
        controller.sanitize(&no, block_erase).unwrap_err().kind,
        ErrorKind::Invalid(_)
    ));
    assert!(matches!(
        controller.delete_namespace(&no, Some(1)).unwrap_err().kind,
        ErrorKind::Invalid(_)
    ));
    assert_eq!(fake.nvme.blocks(1, 0, 1).unwrap(), [7; 512]);

    let before = controller.namespace(1).unwrap();
    controller.format(&yes, Some(1), format).unwrap();
    let after = controller.namespace(1).unwrap();
    assert_eq!((before.lba_bytes, after.lba_bytes), (512, 4096));
    assert_ne!(before.changes, after.changes);
    assert_eq!(fake.nvme.blocks(1, 0, 1).unwrap(), [0; 4096]);

    assert_eq!(controller.sanitize_status().unwrap().state(), SanitizeState::Never);
    controller.sanitize(&yes, block_erase).unwrap();
    while controller.sanitize_status().unwrap().state() == SanitizeState::Running {}
    assert_eq!(controller.sanitize_status().unwrap().state(), SanitizeState::Done);
    drop(controller);
    fake.leaves_nothing();
}

#[test]
fn what_a_controller_cannot_do_is_not_asked_of_it() {
    let fake = Fake::new(Options {
        abilities: Abilities::empty(),
        ..default()
    });
    let controller = fake.open().unwrap();
    let yes = DestroyData::on("FAKE0001");
    let asked = fake.nvme.counts().admin;
    let errors = [
        controller.format(&yes, None, Format::default()).unwrap_err(),
        controller.sanitize(&yes, Sanitize::CryptoErase).unwrap_err(),
        controller.attach_namespace(1, &[0]).unwrap_err(),
        controller
            .bring_up_virtual_function(1, crate::nvme::Resources::default())
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
    }
    assert_eq!(fake.nvme.counts().admin, asked);
    drop(controller);
    fake.leaves_nothing();
}
