"""The volumes of one pod as folders, in the layout of the kubelet.

A Secret or ConfigMap is a folder of links into a hidden folder. A change creates a new hidden folder and replaces one
link, so that readers see either all old files or all new ones.
"""

import itertools
import os
import shutil

from fields import CLAIM, CONFIG_MAP, EMPTY_DIR, IMAGE_VOLUME, SECRET, Unsupported, require_known

_versions = itertools.count(1)


class Volumes:
    """All volumes of a pod, below `folder`."""

    def __init__(self, volumes, cluster, folder, group):
        """`group` is the fsGroup, or None if this user cannot change the group of files."""
        self._cluster = cluster
        self._group = group
        self._projected = []
        self.folders = {}
        for volume in volumes:
            (kind,) = set(volume) - {"name"}
            self.folders[volume["name"]] = self._create(kind, volume[kind] or {}, folder / volume["name"])
        self.refresh()

    def refresh(self):
        """Writes changed Secrets and ConfigMaps."""
        for folder, mode, data in self._projected:
            self._project(folder, mode, data())

    def _create(self, kind, source, folder):
        cluster = self._cluster
        if kind == "secret":
            require_known("volumes.secret", source, SECRET)
            data = lambda: cluster.secrets[source["secretName"]]
        elif kind == "configMap":
            require_known("volumes.configMap", source, CONFIG_MAP)
            data = lambda: cluster.config_maps[source["name"]]
        elif kind == "persistentVolumeClaim":
            require_known("volumes.persistentVolumeClaim", source, CLAIM)
            return cluster.claims[source["claimName"]]
        elif kind == "image":
            require_known("volumes.image", source, IMAGE_VOLUME)
            return cluster.image_volumes[source["reference"]]
        elif kind == "emptyDir":
            require_known("volumes.emptyDir", source, EMPTY_DIR)
            folder.mkdir(parents=True)
            folder.chmod(0o2777)
            self._set_group(folder)
            return folder
        else:
            raise Unsupported(f"volumes: {kind}")
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self._projected.append((folder, source.get("defaultMode", 0o644), data))
        return folder

    def _project(self, folder, mode, data):
        current = folder / "..data"
        old = folder / os.readlink(current) if current.is_symlink() else None
        if old is not None and {path.name: path.read_bytes() for path in old.iterdir()} == data:
            return
        new = folder / f"..version_{next(_versions)}"
        new.mkdir()
        new.chmod(0o755)
        for key, value in data.items():
            path = new / key
            path.write_bytes(value)
            # The kubelet adds read permission for the pod's group.
            path.chmod(mode | 0o440 if self._group is not None else mode)
            self._set_group(path)
        swap = folder / "..data_tmp"
        swap.symlink_to(new.name)
        swap.rename(current)
        for path in folder.iterdir():
            if not path.name.startswith("..") and path.name not in data:
                path.unlink()
        for key in data:
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(f"..data/{key}")
        if old is not None:
            shutil.rmtree(old)

    def _set_group(self, path):
        if self._group is not None:
            os.chown(path, -1, self._group)
