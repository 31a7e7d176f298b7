"""A plugin of Docker's protocol for the suite: volumes on a shelf, logs, networks and addresses.

    plugin.py SOCKET DIRECTORY INTERFACE…

In DIRECTORY it keeps `volumes/`, `logs/`, `state.json`, `networks.json`, `addresses.json`, and `calls`, a line of JSON for each call. What it
finds in `behave.json` decides how it answers a method, until that changes:

    "hang"     not at all
    "garbage"  with something that is no JSON
    "die"      with half an answer, and its end
    "refuse"   with an error
    "nowhere"  as it should, but with an interface that is not there
"""

import ipaddress
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

SOCKET, DIRECTORY, *INTERFACES = sys.argv[1:]
LOCK = threading.Lock()


def path(*parts):
    return os.path.join(DIRECTORY, *parts)


def load(name, default):
    try:
        with open(path(name)) as file:
            return json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return default


class Kept:
    """On disk: a plugin may be killed as well."""

    FILE = "state.json"

    def __init__(self):
        self.all = load(self.FILE, {})

    def keep(self):
        with open(path("new"), "w") as file:
            json.dump(self.all, file)
        os.rename(path("new"), path(self.FILE))


class Volumes(Kept):
    """What is made, and who has it mounted."""

    def one(self, name):
        if name not in self.all:
            raise LookupError(f"no volume {name} on the shelf")
        return self.all[name]

    def told(self, name):
        mounted = self.one(name)["holders"]
        return {
            "Name": name,
            "Mountpoint": path("volumes", name) if mounted else "",
            "CreatedAt": "2026-01-02T03:04:05Z",
            "Status": {"size": self.one(name)["options"].get("size", "any")},
        }

    def create(self, asked):
        if "shape" in (asked.get("Opts") or {}):
            raise ValueError("shapes are not known here")
        os.makedirs(path("volumes", asked["Name"]), exist_ok=True)
        self.all[asked["Name"]] = {"options": asked.get("Opts") or {}, "holders": []}

    def remove(self, asked):
        if self.one(asked["Name"])["holders"]:
            raise ValueError("it is mounted")
        shutil.rmtree(path("volumes", asked["Name"]))
        del self.all[asked["Name"]]

    def mount(self, asked):
        holders = self.one(asked["Name"])["holders"]
        if asked["ID"] not in holders:
            holders.append(asked["ID"])
        return {"Mountpoint": path("volumes", asked["Name"])}

    def unmount(self, asked):
        holders = self.one(asked["Name"])["holders"]
        if asked["ID"] not in holders:
            raise ValueError(f"{asked['ID']} has not mounted it")
        holders.remove(asked["ID"])

    def path(self, asked):
        return {"Mountpoint": self.told(asked["Name"])["Mountpoint"]}

    def get(self, asked):
        return {"Volume": self.told(asked["Name"])}

    def list(self, asked):
        return {"Volumes": [self.told(name) for name in self.all]}

    def capabilities(self, asked):
        return {"Capabilities": {"Scope": "global"}}


class Logs:
    """What is read from each FIFO, as lines of JSON in `logs/CONTAINER`."""

    def __init__(self):
        self.readers = {}

    def keep(self):
        pass

    def startlogging(self, asked):
        os.makedirs(path("logs"), exist_ok=True)
        container = asked["Info"]["ContainerID"]
        reader = threading.Thread(target=self.read, args=(asked["File"], container), daemon=True)
        reader.start()
        self.readers[asked["File"]] = reader

    def stoplogging(self, asked):
        self.readers.pop(asked["File"]).join()

    def capabilities(self, asked):
        return {"Cap": {"ReadLogs": False}}

    def read(self, fifo, container):
        with open(fifo, "rb") as entries, open(path("logs", container), "a") as log:
            while head := entries.read(4):
                entry = decode(entries.read(int.from_bytes(head, "big")))
                told = [entry[1].decode(), entry[3].decode(), entry.get(4, 0), entry[2]]
                log.write(json.dumps(told) + "\n")
                log.flush()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Networks(Kept):
    """A bridge for each network, and a veth for each endpoint, by their ids."""

    FILE = "networks.json"

    def one(self, asked):
        if asked["NetworkID"] not in self.all:
            raise LookupError("no such network on the loom")
        return self.all[asked["NetworkID"]]

    def endpoint(self, asked):
        endpoints = self.one(asked)["endpoints"]
        if asked["EndpointID"] not in endpoints:
            raise LookupError("no such endpoint on the loom")
        return endpoints[asked["EndpointID"]]

    def getcapabilities(self, asked):
        return {"Scope": "global", "ConnectivityScope": "local"}

    def createnetwork(self, asked):
        network = asked["NetworkID"]
        if network in self.all:
            raise ValueError("it is woven already")
        pool = asked["IPv4Data"][0]
        bridge = "lm" + network[:8]
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", pool["Gateway"], "dev", bridge)
        ip("link", "set", bridge, "up")
        gateway = pool["Gateway"].split("/")[0]
        self.all[network] = {"asked": asked, "gateway": gateway, "endpoints": {}}

    def deletenetwork(self, asked):
        if self.one(asked)["endpoints"]:
            raise ValueError("it has endpoints")
        ip("link", "del", "lm" + asked["NetworkID"][:8])
        del self.all[asked["NetworkID"]]

    def createendpoint(self, asked):
        network, endpoint = asked["NetworkID"], asked["EndpointID"]
        host, own = "lh" + endpoint[:8], "lc" + endpoint[:8]
        ip("link", "add", host, "type", "veth", "peer", "name", own)
        ip("link", "set", host, "master", "lm" + network[:8], "up")
        self.one(asked)["endpoints"][endpoint] = {"joined": False, "out": False}
        given = asked["Interface"]
        mac = ":".join(["02", "10", endpoint[0:2], endpoint[2:4], endpoint[4:6], endpoint[6:8]])
        return {"Interface": {} if given["MacAddress"] else {"MacAddress": mac}}

    def deleteendpoint(self, asked):
        self.endpoint(asked)
        # With it goes the other end, wherever that is.
        ip("link", "del", "lh" + asked["EndpointID"][:8])
        del self.one(asked)["endpoints"][asked["EndpointID"]]

    def endpointoperinfo(self, asked):
        return {"Value": {"loom": self.endpoint(asked)}}

    def join(self, asked):
        self.endpoint(asked)["joined"] = True
        manner = load("behave.json", {}).get("NetworkDriver.Join")
        source = "nowhere0" if manner == "nowhere" else "lc" + asked["EndpointID"][:8]
        return {
            "InterfaceName": {"SrcName": source, "DstPrefix": "loom"},
            "Gateway": self.one(asked)["gateway"],
            "StaticRoutes": [{"Destination": "10.244.0.0/16", "RouteType": 1, "NextHop": ""}],
        }

    def leave(self, asked):
        if not self.endpoint(asked)["joined"]:
            raise ValueError("it has not joined")
        self.endpoint(asked)["joined"] = False

    def programexternalconnectivity(self, asked):
        self.endpoint(asked)["out"] = True

    def revokeexternalconnectivity(self, asked):
        self.endpoint(asked)["out"] = False


class Addresses(Kept):
    """Pools, and the addresses of each that are given."""

    FILE = "addresses.json"

    def getcapabilities(self, asked):
        return {"RequiresMACAddress": True}

    def getdefaultaddressspaces(self, asked):
        return {"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "everywhere"}

    def requestpool(self, asked):
        pool = asked["Pool"] or "10.123.0.0/24"
        name = asked["AddressSpace"] + "/" + pool
        self.all.setdefault(name, {"pool": pool, "users": 0, "given": []})["users"] += 1
        return {"PoolID": name, "Pool": pool, "Data": None}

    def releasepool(self, asked):
        pool = self.all[asked["PoolID"]]
        pool["users"] -= 1
        if not pool["users"]:
            del self.all[asked["PoolID"]]

    def requestaddress(self, asked):
        pool = self.all[asked["PoolID"]]
        subnet = ipaddress.ip_network(pool["pool"])
        # From the other end, so that it is seen who gave it.
        last = "RequestAddressType" not in asked["Options"]
        hosts = list(subnet.hosts())[:: -1 if last else 1]
        free = (str(host) for host in hosts if str(host) not in pool["given"])
        address = asked["Address"] or next(free)
        if address in pool["given"]:
            raise ValueError(f"{address} is given")
        pool["given"].append(address)
        return {"Address": f"{address}/{subnet.prefixlen}"}

    def releaseaddress(self, asked):
        self.all[asked["PoolID"]]["given"].remove(asked["Address"])


def decode(message):
    """The fields of a protobuf message: numbers and bytes."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        value = varint()
        if key & 7 == 2:
            value, at = message[at : at + value], at + value
        fields[key >> 3] = value
    return fields


DRIVERS = {
    "VolumeDriver": Volumes(),
    "LogDriver": Logs(),
    "NetworkDriver": Networks(),
    "IpamDriver": Addresses(),
}


class Handler(BaseHTTPRequestHandler):
    def address_string(self):
        return "socket"

    def log_message(self, *_):
        pass

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        asked = json.loads(self.rfile.read(length) or b"{}")
        method = self.path.lstrip("/")
        with open(path("calls"), "a") as calls:
            calls.write(json.dumps([method, asked]) + "\n")
        manner = load("behave.json", {}).get(method)
        if manner == "hang":
            time.sleep(600)
        if manner == "garbage":
            return self.say(b"<html>It works!</html>", "text/html")
        if manner == "die":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            self.wfile.flush()
            os._exit(1)
        if manner == "refuse":
            return self.say(b'{"Err": "not today"}')
        self.say(json.dumps(self.answer(method, asked)).encode())

    def answer(self, method, asked):
        if method == "Plugin.Activate":
            return {"Implements": INTERFACES}
        interface, _, name = method.partition(".")
        try:
            with LOCK:
                driver = DRIVERS[interface]
                answer = getattr(driver, name.lower())(asked) or {}
                driver.keep()
        except Exception as error:
            return {"Err": str(error)}
        return answer | {"Err": ""}

    def say(self, body, kind="application/vnd.docker.plugins.v1.1+json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    os.makedirs(DIRECTORY, exist_ok=True)
    if os.path.exists(SOCKET):
        os.unlink(SOCKET)
    Server(SOCKET, Handler).serve_forever()
