"""Runs a program on a terminal of its own, and plays the person in front of it.

    on_terminal.py '[["what it shows", "what is typed then"], …]' COMMAND…

Prints JSON: output (all that the terminal showed), code (exit code; negative: signal), echo and canonical (is the
terminal afterwards as it was?). An answer "SIGTERM" is sent as that signal.
"""
import fcntl, json, os, pty, select, signal, sys, termios, time

dialogue, command = json.loads(sys.argv[1]), sys.argv[2:]
master, slave = pty.openpty()
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.close(master)
    os.execvp(command[0], command)

output, seen, status = b"", 0, None
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    if select.select([master], [], [], 0.05)[0]:
        output += os.read(master, 65536)
        continue
    if dialogue and dialogue[0][0].encode() in output[seen:]:
        seen = len(output)
        answer = dialogue.pop(0)[1]
        if answer == "SIGTERM":
            os.kill(child, signal.SIGTERM)
        else:
            os.write(master, answer.encode())
        continue
    done, state = os.waitpid(child, os.WNOHANG)
    if done:
        status = os.waitstatus_to_exitcode(state)
        break
else:
    os.kill(child, signal.SIGKILL)
local = termios.tcgetattr(slave)[3]
print(json.dumps({
    "output": output.decode(errors="replace"),
    "code": status,
    "echo": bool(local & termios.ECHO),
    "canonical": bool(local & termios.ICANON),
}))
