//! The structures behind JSON documents.
