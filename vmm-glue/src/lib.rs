//! Assigning functions to KVM guests: a minimal VMM, and hand-over to others.
