//! To come: assigning functions to KVM guests, by a minimal VMM and by hand-over to others.
