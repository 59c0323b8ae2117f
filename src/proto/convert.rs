//! Checked conversions between the wire and our own values.
