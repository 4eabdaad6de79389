//! The same numbers as references that we did not write. `golden/` holds what they computed and the scripts that
//! made them; one module per subject.

mod vision;
