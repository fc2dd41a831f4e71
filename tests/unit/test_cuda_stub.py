"""What the GPU tests stand on: our structures and calls, and with them the stub driver's, are those of NVIDIA's headers."""

import ctypes
import subprocess

import pytest
import stub_node

from dynamo_entry.cuda import abi, driver

STRUCTURES = {
    "CUcheckpointLockArgs": (abi.LockArgs, ["timeoutMs"]),
    "CUcheckpointGpuPair": (abi.GpuPair, ["oldUuid", "newUuid"]),
    "CUcheckpointRestoreArgs": (abi.RestoreArgs, ["gpuPairs", "gpuPairsCount"]),
}

#: Every function of the driver that is called, as it is called.
FUNCTIONS = {
    "cuInit": "unsigned int",
    "cuDriverGetVersion": "int *",
    "cuDeviceGetCount": "int *",
    "cuDeviceGet": "CUdevice *, int",
    "cuDeviceGetName": "char *, int, CUdevice",
    "cuDeviceTotalMem_v2": "size_t *, CUdevice",
    "cuDeviceGetUuid_v2": "CUuuid *, CUdevice",
    "cuDeviceGetAttribute": "int *, CUdevice_attribute, CUdevice",
    "cuGetErrorName": "CUresult, const char **",
    "cuCheckpointProcessGetState": "int, CUprocessState *",
    "cuCheckpointProcessGetRestoreThreadId": "int, int *",
    "cuCheckpointProcessLock": "int, CUcheckpointLockArgs *",
    "cuCheckpointProcessCheckpoint": "int, CUcheckpointCheckpointArgs *",
    "cuCheckpointProcessRestore": "int, CUcheckpointRestoreArgs *",
    "cuCheckpointProcessUnlock": "int, CUcheckpointUnlockArgs *",
}

#: The same structures where earlier versions of cuda.h declare them otherwise: members and their offsets.
EARLIER = {
    "12.8 and 12.9": ("uint64_t reserved[8];", {}),
    "13.0 to 13.2": (
        "void *gpuPairs; unsigned int gpuPairsCount; char reserved[52 - sizeof(void *)]; uint64_t reserved1;",
        {"gpuPairs": abi.RestoreArgs.gpuPairs.offset, "gpuPairsCount": abi.RestoreArgs.gpuPairsCount.offset},
    ),
    "13.3": (
        "void *gpuPairs; unsigned int gpuPairsCount; char reserved[64 - sizeof(void *) - sizeof(unsigned int)];",
        {"gpuPairs": abi.RestoreArgs.gpuPairs.offset, "gpuPairsCount": abi.RestoreArgs.gpuPairsCount.offset},
    ),
}


def compiled(directory, head: str, statements: list[str]) -> list[str]:
    """What a C program prints, line by line."""
    source = directory / "print.c"
    includes = "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n"
    source.write_text(f"{head}\n{includes}int main(void) {{\n" + "\n".join(statements) + "\n}\n")
    header = f"-I{stub_node.header_directory()}"
    subprocess.run(["cc", "-Wall", "-Werror", header, source, "-o", directory / "print"], check=True)
    return subprocess.run(
        [directory / "print"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_structures_and_numbers_are_those_of_the_header(tmp_path):
    stub_node.build()
    said = compiled(
        tmp_path,
        "#include <cuda.h>",
        [
            *(f'printf("size {name} %zu\\n", sizeof({name}));' for name in STRUCTURES),
            *(
                f'printf("offset {name}.{member} %zu\\n", offsetof({name}, {member}));'
                for name, (_, members) in STRUCTURES.items()
                for member in members
            ),
            *(f'printf("state {name} %d\\n", CU_PROCESS_STATE_{name});' for name in abi.State.__members__),
            *(
                f'printf("result {name} %d\\n", CUDA_{"" if name == "SUCCESS" else "ERROR_"}{name});'
                for name in abi.Result.__members__
            ),
            *(
                f'printf("attribute %d\\n", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{which});'
                for which in ("MAJOR", "MINOR")
            ),
        ],
    )
    assert said == [
        *(f"size {name} {ctypes.sizeof(structure)}" for name, (structure, _) in STRUCTURES.items()),
        *(
            f"offset {name}.{member} {getattr(structure, member).offset}"
            for name, (structure, members) in STRUCTURES.items()
            for member in members
        ),
        *(f"state {name} {value.value}" for name, value in abi.State.__members__.items()),
        *(f"result {name} {value.value}" for name, value in abi.Result.__members__.items()),
        f"attribute {driver._COMPUTE_MAJOR}",
        f"attribute {driver._COMPUTE_MINOR}",
    ]


def test_functions_are_called_as_the_header_declares_them(tmp_path):
    """By name and arguments; a name with a version is that of the library."""
    compiled(
        tmp_path,
        "#include <cuda.h>",
        [
            f"_Static_assert(__builtin_types_compatible_p(__typeof__(&{name}), CUresult (*)({arguments})), #name);"
            .replace("#name", f'"{name}"')
            for name, arguments in FUNCTIONS.items()
        ],
    )  # fmt: skip


@pytest.mark.parametrize("version", EARLIER)
def test_one_layout_serves_every_version_of_the_header(tmp_path, version):
    """Read in cuda.h of nvidia-cuda-runtime 12.8, 12.9, 13.0, 13.1, 13.2 and 13.3 (PyPI)."""
    members, offsets = EARLIER[version]
    said = compiled(
        tmp_path,
        f"#include <stdint.h>\ntypedef struct {{ {members} }} Args;",
        [
            'printf("%zu\\n", sizeof(Args));',
            *(f'printf("%zu\\n", offsetof(Args, {name}));' for name in offsets),
        ],
    )
    assert said == [str(ctypes.sizeof(abi.RestoreArgs)), *map(str, offsets.values())]


def test_what_some_version_reserves_is_zero():
    pairs = (abi.GpuPair * 1)()
    args = abi.RestoreArgs(gpuPairs=pairs, gpuPairsCount=1)
    known = abi.RestoreArgs.gpuPairsCount.offset + ctypes.sizeof(ctypes.c_uint)
    assert not any(bytes(args)[known:])
    assert not any(bytes(abi.LockArgs(timeoutMs=5))[ctypes.sizeof(ctypes.c_uint) :])


def test_memory_is_told_as_nvml_lays_it_out():
    """nvmlMemory_t (nvml.h of nvidia-nvml-dev 12.9 and 13.5, PyPI): total, free, used."""
    names = [name for name, _ in driver._Memory._fields_]
    assert names == ["total", "free", "used"]
    assert [getattr(driver._Memory, name).offset for name in names] == [0, 8, 16]


def test_a_uuid_is_written_as_nvidia_smi_does():
    text = "GPU-eea0d83f-ebcd-ac27-6b3e-bec2a19724e6"
    assert abi.uuid_text(abi.uuid_bytes(text)) == text
