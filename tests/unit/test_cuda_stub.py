"""What the GPU tests stand on: the stub driver has the ABI of NVIDIA's header, and so have our structures."""

import ctypes
import subprocess

import stub_node

from dynamo_entry.cuda import abi

STRUCTURES = {
    "CUcheckpointLockArgs": (abi.LockArgs, ["timeoutMs"]),
    "CUcheckpointGpuPair": (abi.GpuPair, ["oldUuid", "newUuid"]),
    "CUcheckpointRestoreArgs": (abi.RestoreArgs, ["gpuPairs", "gpuPairsCount"]),
}
STATES = ("RUNNING", "LOCKED", "CHECKPOINTED", "FAILED", "CHECKPOINTING", "RESTORING")


def test_structures_and_numbers_are_those_of_the_header(tmp_path):
    stub_node.build()
    lines = [
        *(f'printf("size %s %zu\\n", "{name}", sizeof({name}));' for name in STRUCTURES),
        *(
            f'printf("offset {name}.{member} %zu\\n", offsetof({name}, {member}));'
            for name, (_, members) in STRUCTURES.items()
            for member in members
        ),
        *(f'printf("state {name} %d\\n", CU_PROCESS_STATE_{name});' for name in STATES),
        *(
            f'printf("result {name} %d\\n", CUDA_{"" if name == "SUCCESS" else "ERROR_"}{name});'
            for name in abi.Result.__members__
        ),
    ]
    source = tmp_path / "print.c"
    source.write_text(
        "#include <cuda.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {"
        + "\n".join(lines)
        + "}"
    )
    subprocess.run(["cc", f"-I{stub_node.header_directory()}", source, "-o", tmp_path / "print"], check=True)
    said = subprocess.run([tmp_path / "print"], capture_output=True, text=True, check=True).stdout
    ours = [
        *(f"size {name} {ctypes.sizeof(structure)}" for name, (structure, _) in STRUCTURES.items()),
        *(
            f"offset {name}.{member} {getattr(structure, member).offset}"
            for name, (structure, members) in STRUCTURES.items()
            for member in members
        ),
        *(f"state {name} {abi.State[name].value}" for name in STATES),
        *(f"result {name} {value.value}" for name, value in abi.Result.__members__.items()),
    ]
    assert said.splitlines() == ours


def test_a_uuid_is_written_as_nvidia_smi_does():
    text = "GPU-eea0d83f-ebcd-ac27-6b3e-bec2a19724e6"
    assert abi.uuid_text(abi.uuid_bytes(text)) == text
