"""With a terminal the engine is in its foreground; without one nothing is touched."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time

import pytest
from launchers import LAUNCHER
from processes import children, wait_until

#: Says who has the terminal, then every signal and every line that comes.
ENGINE = """
import os, signal, sys
def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
for number in (signal.SIGINT, signal.SIGWINCH, signal.SIGUSR1):
    signal.signal(number, lambda number, _: say("signal", number, *os.get_terminal_size(0)))
say("foreground", os.tcgetpgrp(0) == os.getpgrp(), "leader", os.getpgrp() == os.getpid())
for line in sys.stdin:
    say("line", line.strip())
say("end of file")
"""

ENGINE_ARGV = ("python3", "-c", ENGINE)


class Screen:
    """What somebody at the terminal types and sees."""

    def __init__(self, master):
        self.master = master
        self.seen = bytearray()
        os.set_blocking(master, False)

    def type(self, text):
        os.write(self.master, text.encode())

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shows(self, text):
        try:
            self.seen += os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            pass
        return text in self.text

    @property
    def text(self):
        return self.seen.decode("utf-8", "replace")

    def expect(self, text):
        """Wait for ``text`` after all that was expected before."""
        wait_until(lambda: self.shows(text), f"{text!r} in {self.text!r}")
        del self.seen[: self.seen.index(text.encode()) + len(text)]


@pytest.fixture
def terminal():
    """(master, path) of a terminal without echo, 80 columns wide."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    Screen(master).resize(24, 80)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


@pytest.fixture
def screen(terminal):
    return Screen(terminal[0])


@pytest.fixture
def on_terminal(start, terminal):
    """Starts an engine in a new session whose terminal is on 0, 1 and 2, as docker run -it does."""
    script = 'exec setsid -c "$@" <{0} >{0} 2>&1'.format(terminal[1])

    def run(*command, **options):
        return start(*command, prefix=("sh", "-c", script, "sh"), stdout=subprocess.DEVNULL, **options)

    return run


def test_the_engine_has_the_foreground_and_reads(on_terminal, screen):
    run = on_terminal(*ENGINE_ARGV)
    screen.expect("foreground True leader True\n")
    screen.type("hello\n\x04")
    screen.expect("line hello\nend of file\n")
    assert run.exit_code() == 0


def test_ctrl_c_arrives_once(on_terminal, screen):
    on_terminal(*ENGINE_ARGV)
    screen.expect("foreground")
    screen.type("\x03")
    screen.expect("signal 2 ")
    screen.type("after\n")
    wait_until(lambda: screen.shows("line after"), "the line")
    assert "signal 2 " not in screen.text


def test_a_change_of_the_window_size_arrives(on_terminal, screen):
    on_terminal(*ENGINE_ARGV)
    screen.expect("foreground")
    screen.resize(30, 123)
    screen.expect("signal 28 123 30\n")


def test_a_signal_to_the_launcher_arrives_as_well(on_terminal, screen):
    run = on_terminal(*ENGINE_ARGV)
    screen.expect("foreground")
    run.signal(signal.SIGUSR1)
    screen.expect("signal 10 ")


def test_a_hang_up_ends_the_engine(on_terminal):
    run = on_terminal("sleep", "60")
    wait_until(lambda: children(run.pid), "engine")
    run.signal(signal.SIGHUP)
    assert run.exit_code() == 128 + signal.SIGHUP


def test_ctrl_z_does_not_freeze_an_engine_that_nobody_could_resume(on_terminal, screen):
    """The launcher is PID 1 or leads the session: no shell is above it."""
    on_terminal(*ENGINE_ARGV)
    screen.expect("foreground")
    screen.type("\x1a")
    time.sleep(0.2)
    screen.type("still there\n")
    screen.expect("line still there")


def test_a_launcher_without_the_foreground_is_not_stopped_by_its_own_lines(on_terminal, screen):
    """With `stty tostop` the kernel sends SIGTTOU to who writes from the background."""
    run = on_terminal(*ENGINE_ARGV)
    screen.expect("foreground")
    run.signal(signal.SIGTTOU)
    run.signal(signal.SIGTTIN)
    screen.type("\x04")
    screen.expect("end of file\n")
    assert run.exit_code() == 0


@pytest.fixture
def shell(terminal, installed):
    """An interactive bash on the terminal, for what a launcher owes the shell that started it."""
    master, path = terminal
    env = {**os.environ, "PYTHONPATH": str(installed), "PS1": "", "LAUNCHER": " ".join(LAUNCHER.group)}
    with open(path, "r+b", buffering=0) as slave:
        process = subprocess.Popen(
            ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "setsid", "-c", "bash", "--norc", "-i"),
            stdin=slave, stdout=slave, stderr=slave, env=env,
        )  # fmt: skip
    screen = Screen(master)
    screen.type("PS1=; bind 'set enable-bracketed-paste off'; echo ready\n")
    screen.expect("ready")
    yield screen
    process.kill()
    process.wait()


def test_ctrl_z_gives_the_shell_its_terminal_back_and_fg_goes_on(shell, tmp_path):
    (tmp_path / "engine.py").write_text(ENGINE)
    shell.type(f"$LAUNCHER python3 {tmp_path}/engine.py\n")
    shell.expect("foreground True")
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.type("echo $((40 + 2))\n")
    shell.expect("42")
    shell.type("fg\n")
    shell.expect("LAUNCHER python3")
    shell.type("hello\n")
    shell.expect("line hello")
    shell.type("\x04")
    shell.expect("end of file")
    shell.type("echo code $?\n")
    shell.expect("code 0")


def test_in_the_background_it_does_not_take_the_terminal(shell, tmp_path):
    (tmp_path / "engine.py").write_text(ENGINE)
    shell.type(f"$LAUNCHER python3 {tmp_path}/engine.py &\n")
    shell.expect("foreground False")
    shell.type("echo $((40 + 2))\n")
    shell.expect("42")


def test_who_comes_after_the_engine_can_read_from_the_terminal(shell):
    """In a script the launcher shares its group with the script, which goes on when the engine has ended."""
    shell.type("bash -c '$LAUNCHER true; read line; echo got $line'\n")
    time.sleep(0.3)
    shell.type("hello\n")
    shell.expect("got hello")


@pytest.mark.parametrize("arguments", ["no-such-command", "--help", "--wrong"])
def test_in_the_background_it_has_its_say_and_ends(shell, arguments):
    """`stty tostop`: the kernel stops who writes from the background, unless that was thought of."""
    code = {"no-such-command": 127, "--help": 0, "--wrong": 2}[arguments]
    launcher = "$LAUNCHER" if arguments == "no-such-command" else "${LAUNCHER% --}"
    shell.type(f"stty tostop; {launcher} {arguments} & wait $!; echo ended with $?\n")
    shell.expect(f"ended with {code}\n")


@pytest.mark.skipif(not LAUNCHER.python, reason="others leave it to the group that is no more")
def test_a_command_that_does_not_exist_takes_the_terminal_with_it_to_nobody(terminal, screen, installed):
    """Who started the launcher goes on with it."""
    after = 'import os; print("ours", os.tcgetpgrp(0) == os.getpgrp())'
    script = f"\"$@\"; python3 -c '{after}'"
    with open(terminal[1], "r+b", buffering=0) as slave:
        done = subprocess.run(
            ["setsid", "-c", "sh", "-c", script, "sh", *LAUNCHER.command(), "/nowhere/engine"],
            stdin=slave, stdout=slave, stderr=slave, timeout=60, check=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)},
        )  # fmt: skip
    screen.expect("cannot execute '/nowhere/engine'")
    screen.expect("ours True")
    assert done.returncode == 0
