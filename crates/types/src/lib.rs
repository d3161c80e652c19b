//! Records, ids, topic names, event time and the error class: the words every crate shares.
