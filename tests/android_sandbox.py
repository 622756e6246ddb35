"""Android's app sandbox for one command: `python -m tests.android_sandbox [--without CALL] COMMAND...` puts the system
calls under a filter as an app's are, then becomes the command. A call that is not allowed ends in SIGSYS, there and
in all that the command starts.

The policy is arm64's, for that is what phones are: bionic's SYSCALLS.TXT, and its SECCOMP_ALLOWLIST_COMMON.TXT and
SECCOMP_ALLOWLIST_APP.TXT, less SECCOMP_BLOCKLIST_APP.TXT. Of these only what every release since Android 8, the first
with such a filter, allows: statx, close_range, membarrier and the like came later.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import re
import resource
import struct

# The calls by their names, with the numbers that they have on x86-64.
ALLOWED = {
    name: int(number)
    for name, number in re.findall(
        r"(\w+) (\d+)",
        """
read 0 write 1 close 3 fstat 5 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 rt_sigaction 13 rt_sigprocmask 14
rt_sigreturn 15 ioctl 16 pread64 17 pwrite64 18 readv 19 writev 20 sched_yield 24 mremap 25 msync 26 mincore 27
madvise 28 dup 32 nanosleep 35 getitimer 36 setitimer 38 getpid 39 sendfile 40 socket 41 connect 42 sendto 44
recvfrom 45 sendmsg 46 recvmsg 47 shutdown 48 bind 49 listen 50 getsockname 51 getpeername 52 socketpair 53
setsockopt 54 getsockopt 55 clone 56 execve 59 exit 60 wait4 61 kill 62 uname 63 fcntl 72 flock 73 fsync 74
fdatasync 75 truncate 76 ftruncate 77 getcwd 79 chdir 80 fchdir 81 fchmod 91 fchown 93 umask 95 gettimeofday 96
getrlimit 97 getrusage 98 sysinfo 99 times 100 ptrace 101 getuid 102 getgid 104 geteuid 107 getegid 108 setpgid 109
getppid 110 setsid 112 getgroups 115 setresuid 117 getresuid 118 getresgid 120 getpgid 121 getsid 124 capget 125
capset 126 rt_sigpending 127 rt_sigtimedwait 128 rt_sigsuspend 130 sigaltstack 131 personality 135 statfs 137
fstatfs 138 getpriority 140 setpriority 141 sched_setparam 142 sched_getparam 143 sched_setscheduler 144
sched_getscheduler 145 sched_get_priority_max 146 sched_get_priority_min 147 sched_rr_get_interval 148 mlock 149
munlock 150 mlockall 151 munlockall 152 pivot_root 155 prctl 157 setrlimit 160 sync 162 gettid 186 readahead 187
setxattr 188 lsetxattr 189 fsetxattr 190 getxattr 191 lgetxattr 192 fgetxattr 193 listxattr 194 llistxattr 195
flistxattr 196 removexattr 197 lremovexattr 198 fremovexattr 199 tkill 200 futex 202 sched_setaffinity 203
sched_getaffinity 204 getdents64 217 set_tid_address 218 restart_syscall 219 fadvise64 221 timer_create 222
timer_settime 223 timer_gettime 224 timer_getoverrun 225 timer_delete 226 clock_gettime 228 clock_getres 229
clock_nanosleep 230 exit_group 231 epoll_ctl 233 tgkill 234 waitid 247 ioprio_set 251 ioprio_get 252
inotify_add_watch 254 inotify_rm_watch 255 openat 257 mkdirat 258 mknodat 259 fchownat 260 newfstatat 262
unlinkat 263 renameat 264 linkat 265 symlinkat 266 readlinkat 267 fchmodat 268 faccessat 269 pselect6 270 ppoll 271
unshare 272 splice 275 tee 276 vmsplice 278 utimensat 280 epoll_pwait 281 timerfd_create 283 fallocate 285
timerfd_settime 286 timerfd_gettime 287 accept4 288 signalfd4 289 eventfd2 290 epoll_create1 291 dup3 292 pipe2 293
inotify_init1 294 rt_tgsigqueueinfo 297 perf_event_open 298 recvmmsg 299 prlimit64 302 sendmmsg 307 setns 308
getcpu 309 sched_setattr 314 sched_getattr 315 seccomp 317 getrandom 318
""",
    )
}
# What x86-64 has besides: the forebears of calls that are allowed, and which a C library for arm64 cannot make.
_FOREBEARS = {
    name: int(number)
    for name, number in re.findall(
        r"(\w+) (\d+)",
        """
open 2 stat 4 lstat 6 poll 7 access 21 pipe 22 select 23 dup2 33 pause 34 alarm 37 accept 43 fork 57 vfork 58
getdents 78 rename 82 mkdir 83 rmdir 84 creat 85 link 86 unlink 87 symlink 88 readlink 89 chmod 90 chown 92
lchown 94 getpgrp 111 utime 132 mknod 133 arch_prctl 158 time 201 epoll_create 213 epoll_wait 232 utimes 235
inotify_init 253 signalfd 282 eventfd 284
""",
    )
}
_X86_64 = 0xC000003E
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW, _TRAP, _KILL = 0x7FFF0000, 0x00030000, 0x80000000
_SET_SECCOMP, _SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2


def unusable() -> str:
    """Why no such filter can be put on here; empty when one can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the filter is written for Linux on x86-64"
    with open("/proc/self/status") as status:
        return "" if "\nSeccomp:" in status.read() else "this kernel knows no seccomp filter"


def enter(without: str | None = None) -> None:
    """Put this process under the filter, for good; `without` is a call that it shall not allow either."""
    numbers = sorted(number for name, number in (ALLOWED | _FOREBEARS).items() if name != without)
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _NUMBER))
    for number in numbers:
        program += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program.append((_RETURN, 0, 0, _TRAP))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_SET_NO_NEW_PRIVS, 1, 0), (_SET_SECCOMP, _FILTER, ctypes.c_char_p(described))):
        if libc.prctl(*call, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"no seccomp filter: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--without")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    enter(options.without)
    os.execv(options.command[0], options.command)


if __name__ == "__main__":
    main()
