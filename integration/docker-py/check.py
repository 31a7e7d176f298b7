"""What programs do with docker-py, against the daemon behind DOCKER_HOST.

usage: check.py IMAGE REMOTE

IMAGE is a local image with busybox, REMOTE the repository of an open registry
that has it under the tag `one`. Prints `ok NAME` or `FAILED NAME: reason`, a line each.
"""

import io
import os
import queue
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time

import docker
from docker.errors import APIError, BuildError, ContainerError, ImageNotFound, NotFound
from docker.types import IPAMConfig, IPAMPool, LogConfig, Mount, Ulimit

IMAGE, REMOTE = sys.argv[1:3]
client = docker.from_env(timeout=30)
checks = []


def check(name):
    def keep(function):
        checks.append((name, function))
        return function

    return keep


def same(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


def holds(condition, found):
    if not condition:
        raise AssertionError(f"found {found!r}")


def refused(kind, status, function):
    try:
        function()
    except kind as error:
        same(error.response.status_code, status)
        return str(error)
    raise AssertionError("it was not refused")


class Running:
    """A container that is gone afterwards, whatever happens."""

    def __init__(self, command="sleep 600", **options):
        self.container = client.containers.run(IMAGE, command, detach=True, **options)

    def __enter__(self):
        return self.container

    def __exit__(self, *_):
        try:
            self.container.remove(force=True, v=True)
        except NotFound:
            pass


@check("the daemon is asked for its version, and tells of itself")
def system():
    same(client.ping(), True)
    same(client.version()["ApiVersion"], "1.50")
    same(client.info()["Swarm"]["LocalNodeState"], "inactive")
    same(sorted(client.df()), ["BuildCache", "Containers", "Images", "LayersSize", "Volumes"])


@check("an older API version is served as well")
def older():
    old = docker.from_env(version="1.24")
    same(old.ping(), True)
    holds(isinstance(old.containers.list(all=True), list), "no list")


@check("run gives the output back, and takes the container away")
def run():
    same(client.containers.run(IMAGE, "echo hello", remove=True), b"hello\n")
    same(client.containers.run(IMAGE, ["sh", "-c", "echo out; echo err >&2"], stdout=False, stderr=True, remove=True),
         b"err\n")
    same(client.containers.list(all=True), [])


@check("run that fails raises what it printed")
def run_fails():
    try:
        client.containers.run(IMAGE, ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    except ContainerError as error:
        same((error.exit_status, error.stderr), (3, b"why\n"))
    else:
        raise AssertionError("it was not raised")


@check("run pulls an image that is not there")
def run_pulls():
    name = f"{REMOTE}:one"
    for tag in list(client.images.list(name)):
        client.images.remove(name)
    same(client.containers.run(name, "echo pulled", remove=True), b"pulled\n")
    client.images.remove(name)


@check("a container is found, listed, filtered and inspected")
def listing():
    with Running(name="py-list", labels={"part": "front"}, environment={"A": "b"}, hostname="there",
                 working_dir="/tmp") as made:
        same([c.name for c in client.containers.list(filters={"label": "part=front"})], ["py-list"])
        same(client.containers.list(filters={"label": "part=back"}), [])
        same(client.containers.get("py-list").id, made.id)
        same(client.containers.get(made.short_id).id, made.id)
        same(made.labels["part"], "front")
        made.reload()
        same(made.status, "running")
        config = made.attrs["Config"]
        same((config["Hostname"], config["WorkingDir"]), ("there", "/tmp"))
        holds("A=b" in config["Env"], config["Env"])
        same(made.image.id, client.images.get(IMAGE).id)


@check("what is not there is a NotFound, a name that is taken a conflict")
def errors():
    refused(NotFound, 404, lambda: client.containers.get("py-nothing"))
    refused(ImageNotFound, 404, lambda: client.images.get("py-nothing:here"))
    refused(NotFound, 404, lambda: client.networks.get("py-nothing"))
    refused(NotFound, 404, lambda: client.volumes.get("py-nothing"))
    with Running(name="py-taken"):
        said = refused(APIError, 409, lambda: client.containers.create(IMAGE, name="py-taken"))
        holds("already in use" in said, said)
        refused(APIError, 409, lambda: client.containers.get("py-taken").remove())


@check("logs come whole, by their end, with times, and as they are written")
def logs():
    line = ["sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.1; done; echo bad >&2"]
    with Running(line) as made:
        same(b"".join(made.logs(stream=True, follow=True)), b"line 1\nline 2\nline 3\nbad\n")
        same(made.logs(stderr=False, tail=1), b"line 3\n")
        stamped = made.logs(timestamps=True, stdout=False).split(b" ", 1)
        same(stamped[1], b"bad\n")
        holds(stamped[0].endswith(b"Z"), stamped[0])
        same(made.logs(since=time.time() + 60), b"")


@check("wait gives the exit code, and knows its conditions")
def wait():
    with Running("sh -c 'exit 5'") as made:
        same(made.wait()["StatusCode"], 5)
        same(made.wait(condition="not-running")["StatusCode"], 5)
    made = client.containers.create(IMAGE, "true")
    ended = queue.Queue()
    asking = threading.Thread(target=lambda: ended.put(made.wait(condition="removed", timeout=20)))
    asking.start()
    time.sleep(0.2)
    made.remove()
    asking.join(20)
    same(ended.get_nowait()["StatusCode"], 0)


@check("exec gives code and output, apart if asked, as a stream and over a socket")
def execs():
    with Running() as made:
        same(tuple(made.exec_run("echo in")), (0, b"in\n"))
        same(tuple(made.exec_run(["sh", "-c", "echo o; echo e >&2; exit 9"], demux=True)), (9, (b"o\n", b"e\n")))
        same(b"".join(made.exec_run("seq 3", stream=True).output), b"1\n2\n3\n")
        same(made.exec_run("pwd", workdir="/tmp").output, b"/tmp\n")
        same(made.exec_run(["sh", "-c", "echo $X"], environment={"X": "y"}).output, b"y\n")
        same(made.exec_run("id -u", user="12").output, b"12\n")
        same(made.exec_run("tty", tty=True).output, b"/dev/pts/0\r\n")
        holds(not made.exec_run("true", detach=True).output, "output")
        _, open_socket = made.exec_run("cat", stdin=True, socket=True)
        raw = open_socket._sock
        raw.sendall(b"typed\n")
        raw.shutdown(socket.SHUT_WR)
        kind, size = struct.unpack(">BxxxL", read(raw, 8))
        same((kind, read(raw, size), raw.recv(1)), (1, b"typed\n", b""))
        open_socket.close()
        asked = client.api.exec_create(made.id, "sh -c 'exit 4'")
        client.api.exec_start(asked["Id"])
        told = client.api.exec_inspect(asked["Id"])
        same((told["ExitCode"], told["Running"], told["ContainerID"]), (4, False, made.id))


def read(raw, size):
    got = b""
    while len(got) < size:
        more = raw.recv(size - len(got))
        if not more:
            raise AssertionError(f"the stream ended after {got!r}")
        got += more
    return got


@check("attach sees what is said, and says what is heard")
def attach():
    with Running("cat", stdin_open=True) as made:
        heard = made.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        raw = heard._sock
        raw.sendall(b"over\n")
        kind, size = struct.unpack(">BxxxL", read(raw, 8))
        same((kind, read(raw, size)), (1, b"over\n"))
        heard.close()
    with Running("sh -c 'sleep 0.3; echo late'") as made:
        same(b"".join(made.attach(stream=True, logs=True)), b"late\n")


@check("a terminal is raw, and takes its size")
def terminal():
    with Running("sh", tty=True, stdin_open=True) as made:
        made.resize(40, 100)
        heard = made.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        raw = heard._sock
        raw.settimeout(10)
        raw.sendall(b"stty size; exit\n")
        said = b""
        while True:
            part = raw.recv(4096)
            if not part:
                break
            said += part
        holds(b"40 100" in said, said)
        heard.close()


@check("stop, start, restart, kill, pause, rename and update change it")
def changes():
    with Running(name="py-change", stop_signal="KILL", mem_limit="64m") as made:
        def status():
            made.reload()
            return made.status

        made.pause()
        same(status(), "paused")
        made.unpause()
        same(status(), "running")
        made.stop(timeout=1)
        same(status(), "exited")
        made.start()
        made.restart(timeout=0)
        same(status(), "running")
        made.kill("KILL")
        same(made.wait()["StatusCode"], 137)
        made.rename("py-changed")
        same(client.containers.get("py-changed").id, made.id)
        made.update(mem_limit="128m", memswap_limit="128m")
        made.reload()
        same(made.attrs["HostConfig"]["Memory"], 128 << 20)


@check("top and stats look inside")
def looks():
    with Running("sleep 321") as made:
        top = made.top()
        same(top["Titles"][-1], "CMD")
        holds(any("sleep 321" in " ".join(row) for row in top["Processes"]), top)
        once = made.stats(stream=False)
        holds(once["memory_stats"]["usage"] > 0, once["memory_stats"])
        holds(once["pids_stats"]["current"] == 1, once["pids_stats"])
        stream = made.stats(decode=True)
        first, second = next(stream), next(stream)
        same(second["precpu_stats"]["cpu_usage"]["total_usage"], first["cpu_stats"]["cpu_usage"]["total_usage"])
        stream.close()


@check("limits, ulimits, capabilities, devices, tmpfs and read-only are as asked")
def limits():
    line = "ulimit -n; grep CapEff /proc/self/status; touch /x || echo sealed; df -m /scratch | tail -1; cat /proc/self/oom_score_adj"
    said = client.containers.run(
        IMAGE, ["sh", "-c", line], remove=True, read_only=True, cap_drop=["ALL"], cap_add=["NET_RAW"],
        ulimits=[Ulimit(name="nofile", soft=99, hard=99)], tmpfs={"/scratch": "size=3m"}, oom_score_adj=500,
    ).decode().split("\n")
    same(said[0], "99")
    same(said[1].split()[1], "0000000000002000")
    same(said[2], "sealed")
    same(said[3].split()[1], "3")
    same(said[4], "500")


@check("volumes keep, and binds show, what is written")
def volumes():
    volume = client.volumes.create("py-data", labels={"of": "py"})
    same([v.name for v in client.volumes.list(filters={"label": "of=py"})], ["py-data"])
    client.containers.run(IMAGE, ["sh", "-c", "echo kept > /d/file"], remove=True, volumes={"py-data": {"bind": "/d", "mode": "rw"}})
    same(client.containers.run(IMAGE, "cat /d/file", remove=True,
                               mounts=[Mount("/d", "py-data", read_only=True)]), b"kept\n")
    with Running(volumes=["py-data:/d"]):
        refused(APIError, 409, volume.remove)
    volume.remove()
    refused(NotFound, 404, lambda: client.volumes.get("py-data"))


@check("networks resolve names and aliases, and are left and joined while it runs")
def networks():
    net = client.networks.create("py-net", driver="bridge", labels={"of": "py"},
                                 ipam=IPAMConfig(pool_configs=[IPAMPool(subnet="198.19.233.0/24", gateway="198.19.233.1")]))
    try:
        same([n.name for n in client.networks.list(filters={"label": "of=py"})], ["py-net"])
        with Running(name="py-one", network="py-net") as one, Running(name="py-two") as two:
            net.connect(two, aliases=["deux"], ipv4_address="198.19.233.22")
            code, said = one.exec_run("nslookup deux")
            holds(b"198.19.233.22" in said, said)
            net.reload()
            same(sorted(c.name for c in net.containers), ["py-one", "py-two"])
            refused(APIError, 403, net.remove)
            net.disconnect(two)
            net.reload()
            same([c.name for c in net.containers], ["py-one"])
    finally:
        net.remove()


@check("ports are published, and found in the inspect")
def ports():
    with Running("nc -ll -p 80 -e echo hi", ports={"80/tcp": ("127.0.0.1", None)}) as made:
        made.reload()
        (host,) = made.ports["80/tcp"]
        same(host["HostIp"], "127.0.0.1")
        deadline = time.monotonic() + 5
        while True:
            try:
                with socket.create_connection(("127.0.0.1", int(host["HostPort"])), 5) as peer:
                    same(peer.recv(9), b"hi\n")
                    break
            except (ConnectionError, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@check("events tell a life in its order")
def events():
    begin = int(time.time())
    heard = client.events(decode=True, filters={"type": "container", "container": "py-lives"})
    told = []
    ear = threading.Thread(target=lambda: told.extend(take(heard, "destroy")))
    ear.start()
    time.sleep(0.2)
    made = client.containers.run(IMAGE, "true", name="py-lives", detach=True)
    made.wait()
    made.remove()
    ear.join(10)
    same([event["Action"] for event in told], ["create", "start", "die", "destroy"])
    same([event["status"] for event in told], ["create", "start", "die", "destroy"])
    same(told[2]["Actor"]["Attributes"]["exitCode"], "0")
    past = client.events(since=begin, until=int(time.time()) + 1, decode=True, filters={"container": "py-lives"})
    same([event["Action"] for event in past], ["create", "start", "die", "destroy"])


def take(events, last):
    for event in events:
        yield event
        if event["Action"] == last:
            events.close()
            return


@check("images are pulled, tagged, listed, saved, loaded, imported and removed")
def images():
    pulled = client.images.pull(REMOTE, tag="one")
    holds(pulled.tag("py/again", "v1"), "no tag")
    same([i.id for i in client.images.list("py/again")], [pulled.id])
    holds(len(pulled.history()) >= 1, pulled.history())
    saved = b"".join(client.images.get("py/again:v1").save(named="py/again:v1"))
    client.images.remove("py/again:v1")
    refused(ImageNotFound, 404, lambda: client.images.get("py/again:v1"))
    same([i.id for i in client.images.load(saved)], [pulled.id])
    holds("py/again:v1" in client.images.get(pulled.id).tags, client.images.get(pulled.id).tags)
    client.images.remove("py/again:v1")
    client.images.remove(f"{REMOTE}:one")
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        info = tarfile.TarInfo("only")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"file"))
    client.api.import_image_from_data(held.getvalue(), repository="py/imported", tag="v1")
    same(len(client.images.get("py/imported:v1").attrs["RootFS"]["Layers"]), 1)
    client.images.remove("py/imported:v1")


@check("a push and a pull tell of each step")
def push():
    client.images.get(IMAGE).tag(REMOTE, "py")
    told = list(client.images.push(REMOTE, tag="py", stream=True, decode=True))
    holds(any("aux" in line and line["aux"]["Tag"] == "py" for line in told), told[-3:])
    holds(not any("error" in line for line in told), told)
    client.images.remove(f"{REMOTE}:py")
    told = list(client.api.pull(REMOTE, tag="py", stream=True, decode=True))
    holds("Downloaded newer image" in told[-1]["status"], told[-1])
    client.images.remove(f"{REMOTE}:py")
    said = refused(
        NotFound, 404, lambda: client.api.pull(REMOTE, tag="nothing"))
    holds("nothing" in said, said)


@check("archives are put into a container and fetched from it")
def archives():
    with Running() as made:
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as archive:
            info = tarfile.TarInfo("put/file")
            info.size, info.mode = 5, 0o640
            archive.addfile(info, io.BytesIO(b"cargo"))
        same(made.put_archive("/tmp", held.getvalue()), True)
        same(made.exec_run("stat -c '%a %s' /tmp/put/file").output, b"640 5\n")
        chunks, told = made.get_archive("/tmp/put")
        same((told["name"], bool(told["mode"] & 1 << 31)), ("put", True))
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            same(sorted(archive.getnames()), ["put", "put/file"])
            same(archive.extractfile("put/file").read(), b"cargo")
        refused(NotFound, 404, lambda: made.get_archive("/nothing"))


@check("changes are told, and a container becomes an image or an archive")
def changed():
    with Running(["sh", "-c", "echo new > /new; rm /etc/group; sleep 600"]) as made:
        deadline = time.monotonic() + 10
        while {"Path": "/etc/group", "Kind": 2} not in made.diff():
            holds(time.monotonic() < deadline, made.diff())
        holds({"Path": "/new", "Kind": 1} in made.diff(), made.diff())
        image = made.commit("py/committed", tag="v1", message="as it is", conf={"Labels": {"of": "py"}})
        same(image.labels.get("of"), "py")
        same(client.containers.run("py/committed:v1", "cat /new", remove=True), b"new\n")
        client.images.remove("py/committed:v1")
        with tarfile.open(fileobj=io.BytesIO(b"".join(made.export()))) as archive:
            names = archive.getnames()
            holds("new" in names and "etc/group" not in names, names[:20])


@check("a Dockerfile is built, again from the cache, and refused where it fails")
def build():
    def make(lines):
        with tempfile.TemporaryDirectory() as context:
            with open(os.path.join(context, "file"), "w") as file:
                file.write("cargo\n")
            with open(os.path.join(context, "Dockerfile"), "w") as file:
                file.write("\n".join([f"FROM {IMAGE}", *lines, ""]))
            return client.images.build(path=context, tag="py/built:v1", buildargs={"WHAT": "this"}, rm=True)

    lines = ["ARG WHAT", "COPY file /file", "RUN echo $WHAT > /said"]
    image, _ = make(lines)
    same(client.containers.run("py/built:v1", "cat /said /file", remove=True), b"this\ncargo\n")
    again, told = make(lines)
    same(again.id, image.id)
    holds(any("Using cache" in line.get("stream", "") for line in told), "nothing of the cache")
    try:
        make(["RUN echo so far; exit 3"])
    except BuildError as error:
        holds("3" in error.msg, error.msg)
        holds(any("so far" in line.get("stream", "") for line in error.build_log), "no output")
    else:
        raise AssertionError("it was built")
    client.images.remove("py/built:v1")


@check("log drivers, restart policies and automatic removal are kept")
def host_config():
    with Running("sh -c 'exit 1'", restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
                 log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"})) as made:
        deadline = time.monotonic() + 15
        while made.status != "exited" or made.attrs["RestartCount"] != 2:
            holds(time.monotonic() < deadline, (made.status, made.attrs["RestartCount"]))
            time.sleep(0.05)
            made.reload()
        same(made.attrs["HostConfig"]["LogConfig"]["Config"]["max-file"], "2")
    made = client.containers.run(IMAGE, "true", detach=True, auto_remove=True)
    try:
        made.wait(condition="removed")
    except NotFound:
        pass
    refused(NotFound, 404, made.reload)


@check("prune takes what is unused, and says what that was")
def prune():
    ended = client.containers.create(IMAGE, "true", labels={"py": "prune"})
    told = client.containers.prune(filters={"label": "py=prune"})
    same(told["ContainersDeleted"], [ended.id])
    client.networks.create("py-unused", labels={"py": "prune"})
    same(client.networks.prune(filters={"label": "py=prune"})["NetworksDeleted"], ["py-unused"])
    client.volumes.create("py-unused", labels={"py": "prune"})
    same(client.volumes.prune(filters={"label": "py=prune", "all": "true"})["VolumesDeleted"], ["py-unused"])


def main():
    for name, function in checks:
        try:
            function()
            print(f"ok {name}", flush=True)
        except Exception as error:  # A check that breaks is told, and the next one runs.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"FAILED {name}: {reason}", flush=True)


main()
