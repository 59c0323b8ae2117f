//! The proxy over a real core, before a scripted upstream: what passes, what is charged, and how calls end.

mod access;
mod bodies;
mod ends;
mod limits;
mod passing;
mod protocols;
mod shutdown;
