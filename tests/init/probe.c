/* What the conformance suite runs as an engine where a shell or Python would get in the way of what is measured. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *who, int number)
{
	char line[64];
	int length = snprintf(line, sizeof line, "%s%d\n", who, number);
	if (write(1, line, length) != length)
		_exit(9);
}

/* Prints the number of every signal that arrives, until SIGRTMAX does. */
static void print_signals(const char *who)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	say(who, 0);
	for (int number; (number = sigwaitinfo(&all, NULL)) != SIGRTMAX;)
		if (number > 0)
			say(who, number);
	say(who, SIGRTMAX);
}

/* signals [group]: ... also in a child of the same process group (g) and in one of another (o) */
static int signals(int with_group)
{
	const char *who[] = {"g", "o"};
	for (int i = 0; with_group && i < 2; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (i)
				setpgid(0, 0);
			print_signals(who[i]);
			return 0;
		}
	print_signals("e");
	return 0;
}

/* die N: ends by signal N */
static int die(int number)
{
	signal(number, SIG_DFL);
	kill(getpid(), number);
	return 99;
}

/* orphans N: N processes whose parent is gone when they end, every other one in a session of its own; then idle */
static int orphans(int count)
{
	say("orphans ", 0);
	for (int i = 0; i < count; i++) {
		pid_t child = fork();
		if (child < 0)
			return 98;
		if (child == 0) {
			if (fork() == 0 && i % 2)
				setsid();
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
	say("orphans ", count);
	print_signals("e");
	return 0;
}

static void on_term(int number)
{
	say("got ", number);
	_exit(0);
}

/* leave polite|deaf|stopped: ends with 7 and leaves a process of another session behind */
static int leave(const char *how)
{
	int ready[2];
	char byte;
	if (pipe(ready))
		return 98;
	if (fork() == 0) {
		setsid();
		signal(SIGTERM, strcmp(how, "deaf") ? on_term : SIG_IGN);
		say("left ", getpid());
		if (write(ready[1], "x", 1) != 1)
			return 98;
		if (!strcmp(how, "stopped"))
			raise(SIGSTOP);
		for (;;)
			pause();
	}
	return read(ready[0], &byte, 1) == 1 ? 7 : 98;
}

/* oddenv COMMAND...: executes it with an environment that has duplicates and entries without a name or value */
static int oddenv(char **argv)
{
	char *odd[] = {"B=\xff\xfe", "A=1", "A=2", "NOVALUE", "=x", "EMPTY=", "PATH=/usr/bin:/bin", NULL, NULL};
	char *path = getenv("PYTHONPATH"), entry[4096];
	snprintf(entry, sizeof entry, "PYTHONPATH=%s", path ? path : "");
	odd[7] = entry;
	execvpe(argv[0], argv, odd);
	return 98;
}

/* dirty COMMAND...: executes it with signals ignored and blocked */
static int dirty(char **argv)
{
	sigset_t some;
	sigemptyset(&some);
	sigaddset(&some, SIGTERM);
	sigaddset(&some, SIGUSR2);
	sigprocmask(SIG_BLOCK, &some, NULL);
	signal(SIGINT, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	execvp(argv[0], argv);
	return 98;
}

/* init COMMAND...: a PID 1 that is none of the launcher's business, as under docker run --init or in a shared
   pid namespace; it reaps nothing but COMMAND, and ends as that does */
static int init(char **argv)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		execvp(argv[0], argv);
		_exit(96);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "", *how = argc > 2 ? argv[2] : "";
	if (!strcmp(what, "init"))
		return init(argv + 2);
	if (!strcmp(what, "signals"))
		return signals(!strcmp(how, "group"));
	if (!strcmp(what, "die"))
		return die(atoi(how));
	if (!strcmp(what, "orphans"))
		return orphans(atoi(how));
	if (!strcmp(what, "leave"))
		return leave(how);
	if (!strcmp(what, "oddenv"))
		return oddenv(argv + 2);
	if (!strcmp(what, "dirty"))
		return dirty(argv + 2);
	return 97;
}
