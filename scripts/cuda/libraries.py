"""Makes archives that replace NVIDIA's libraries for linking on a machine without them; see `library.c`.

usage: libraries.py CUDARC OUT    (CUDARC: the sources of the crate, whose bindings list the functions)
"""

import pathlib
import re
import subprocess
import sys

# Archive: the module of cudarc, the file names, and the library's own status for "not available".
LIBRARIES = {
    "cuda": ("driver", ["libcuda.so.1", "libcuda.so"], 100),  # CUDA_ERROR_NO_DEVICE
    "nvrtc": ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so"], 11),  # NVRTC_ERROR_INTERNAL_ERROR
    "curand": ("curand", ["libcurand.so.10", "libcurand.so"], 101),  # CURAND_STATUS_NOT_INITIALIZED
    "cublas": ("cublas", ["libcublas.so.13", "libcublas.so"], 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    "cublasLt": ("cublaslt", ["libcublasLt.so.13", "libcublasLt.so"], 1),
    "cudnn": ("cudnn", ["libcudnn.so.9", "libcudnn.so"], 1001),  # CUDNN_STATUS_NOT_INITIALIZED
}
FUNCTION = re.compile(r'extern "C" \{\s*fn (\w+)\([^;]*?\)\s*(?:->\s*([^;]+?))?\s*;', re.DOTALL)


def kind(returns: str) -> str:
    """The value that a function returns when the library is missing."""
    if "c_char" in returns:
        return "text"
    return "number" if "usize" in returns else "status"


def main(cudarc: pathlib.Path, out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    elsewhere: set[str] = set()  # some names stand in two bindings
    for archive, (module, names, missing) in LIBRARIES.items():
        bindings = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
        found = {name: kind(returns) for name, returns in FUNCTION.findall(bindings) if name not in elsewhere}
        elsewhere |= set(found)
        functions = out / f"{archive}.inc"
        lines = [f"FUNCTION({at}, {name}, {found[name]})\n" for at, name in enumerate(sorted(found))]
        functions.write_text("".join(lines))
        define = {
            "NAMES": ", ".join(f'"{name}"' for name in names),
            "MISSING": missing,
            "FUNCTIONS": f'"{functions}"',
        }
        source = pathlib.Path(__file__).with_name("library.c")
        compiled = out / f"{archive}.o"
        flags = ["-O2", "-fPIC", "-Wall", "-Wno-unused-function", *(f"-D{name}={value}" for name, value in define.items())]
        subprocess.run(["gcc", "-c", *flags, "-o", compiled, source], check=True)
        library = out / f"lib{archive}.a"
        library.unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", library, compiled], check=True)
        print(f"{library.name}: {len(found)} functions of {names[0]}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
