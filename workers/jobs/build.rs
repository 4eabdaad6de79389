//! `sqlx::migrate!` reads the folder at compile time, but cargo does not know that a new file there matters.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
