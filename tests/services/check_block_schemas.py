"""Checks the answers of block storage by the schemas of OpenStack's own tests, which its own clients apply to each.

Takes the URL of the identity service, a user, a password, and a server's drive that was uploaded by another API.
"""

import sys
import time

from tempest.lib import auth, exceptions
from tempest.lib.common import rest_client
from tempest.lib.services.volume.v3 import (
    availability_zone_client, backups_client, extensions_client, limits_client, quota_classes_client, quotas_client,
    snapshots_client, types_client, versions_client, volumes_client)

checked, failed = 0, []


def counted(validate):
    """The same check, whose failures do not end what is under way."""

    def check(schema, resp, body):
        global checked
        checked += 1
        try:
            validate(schema, resp, body)
        except (exceptions.InvalidHTTPResponseBody, exceptions.InvalidHTTPResponseHeader) as error:
            failed.append(str(error))

    return check


rest_client.RestClient.validate_response = staticmethod(counted(rest_client.RestClient.validate_response))


class Cloud:
    def __init__(self, url, user, password):
        credentials = auth.get_credentials(
            url, identity_version="v3", username=user, password=password, project_name=user,
            user_domain_name="Default", project_domain_name="Default")
        provider = auth.KeystoneV3AuthProvider(credentials, url)
        self.project = provider.credentials.project_id or provider.get_auth()[1]["project"]["id"]
        region = provider.get_auth()[1]["catalog"][0]["endpoints"][0]["region"]

        def client(kind):
            return kind(provider, "volumev3", region, build_interval=1, build_timeout=60)

        self.volumes, self.snapshots = client(volumes_client.VolumesClient), client(snapshots_client.SnapshotsClient)
        self.backups, self.quotas = client(backups_client.BackupsClient), client(quotas_client.QuotasClient)
        self.classes, self.limits = client(quota_classes_client.QuotaClassesClient), client(limits_client.LimitsClient)
        self.types, self.versions = client(types_client.TypesClient), client(versions_client.VersionsClient)
        self.extensions = client(extensions_client.ExtensionsClient)
        self.zones = client(availability_zone_client.AvailabilityZoneClient)


def wait(show, thing, status):
    for _ in range(600):
        if list(show(thing).values())[0]["status"] == status:
            return
        time.sleep(0.1)
    sys.exit(f"{thing} is not {status} in time")


def about_volumes(cloud, uploaded):
    volumes = cloud.volumes
    made = volumes.create_volume(size=1, name="v", description="d", metadata={"k": "v"})["volume"]["id"]
    wait(volumes.show_volume, made, "available")
    nameless = volumes.create_volume(size=1)["volume"]["id"]
    wait(volumes.show_volume, nameless, "available")
    copied = volumes.create_volume(size=1, source_volid=made)["volume"]["id"]
    wait(volumes.show_volume, copied, "available")
    volumes.show_volume(uploaded)
    volumes.update_volume(made, name="w", description="")
    for params in [None, {"limit": 1}, {"limit": 0}, {"status": "available", "sort": "name:asc"}]:
        volumes.list_volumes(params=params)
        volumes.list_volumes(detail=True, params=params)
    volumes.create_volume_metadata(made, {"a": "b"})
    volumes.update_volume_metadata(made, {"k": "x", "a": "c"})
    volumes.show_volume_metadata(made)
    volumes.show_volume_metadata_item(made, "a")
    volumes.update_volume_metadata_item(made, "a", {"a": "d"})
    volumes.delete_volume_metadata_item(made, "a")
    volumes.update_volume_image_metadata(made, image_name="i")
    volumes.show_volume_image_metadata(made)
    volumes.show_volume(made)
    volumes.delete_volume_image_metadata(made, "image_name")
    volumes.set_bootable_volume(made, bootable=True)
    volumes.update_volume_readonly(made, readonly=True)
    volumes.show_volume(made)
    volumes.update_volume_readonly(made, readonly=False)
    volumes.extend_volume(made, new_size=2)
    wait(volumes.show_volume, made, "available")
    volumes.reserve_volume(made)
    volumes.unreserve_volume(made)
    server = "c31ae64f-03d4-4bc9-b2bf-06f80db0ff62"
    volumes.attach_volume(made, instance_uuid=server, mountpoint="/dev/vdb")
    volumes.show_volume(made)
    volumes.list_volumes(detail=True)
    volumes.detach_volume(made)
    volumes.attach_volume(made, host_name="h", mountpoint="/mnt")
    volumes.show_volume(made)
    volumes.detach_volume(made)
    volumes.reset_volume_status(made, status="maintenance", migration_status="migrating")
    volumes.show_volume(made)
    volumes.reset_volume_status(made, status="available", migration_status="none")
    volumes.delete_volume(copied)
    volumes.force_delete_volume(nameless)
    return made


def about_snapshots(cloud, volume):
    snapshots = cloud.snapshots
    made = snapshots.create_snapshot(volume_id=volume, name="s", metadata={"k": "v"})["snapshot"]["id"]
    wait(snapshots.show_snapshot, made, "available")
    nameless = snapshots.create_snapshot(volume_id=volume)["snapshot"]["id"]
    wait(snapshots.show_snapshot, nameless, "available")
    snapshots.update_snapshot(made, name="t", description="d")
    for params in [{}, {"limit": 1}, {"status": "available"}]:
        snapshots.list_snapshots(**params)
        snapshots.list_snapshots(detail=True, **params)
    snapshots.create_snapshot_metadata(made, {"a": "b"})
    snapshots.update_snapshot_metadata(made, metadata={"k": "x", "a": "c"})
    snapshots.show_snapshot_metadata(made)
    snapshots.show_snapshot_metadata_item(made, "a")
    snapshots.update_snapshot_metadata_item(made, "a", meta={"a": "d"})
    snapshots.delete_snapshot_metadata_item(made, "a")
    snapshots.reset_snapshot_status(made, "updating")
    snapshots.show_snapshot(made)
    cloud.volumes.show_volume(cloud.volumes.create_volume(snapshot_id=nameless)["volume"]["id"])
    snapshots.force_delete_snapshot(made)
    return nameless


def about_backups(cloud, volume, snapshot):
    backups = cloud.backups
    made = backups.create_backup(volume_id=volume, name="b", description="d")["backup"]["id"]
    backups.show_backup(made)
    wait(backups.show_backup, made, "available")
    of_snapshot = backups.create_backup(volume_id=volume, snapshot_id=snapshot)["backup"]["id"]
    wait(backups.show_backup, of_snapshot, "available")
    backups.list_backups()
    backups.list_backups(detail=True)
    for wish in [{}, {"name": "n"}, {"volume_id": volume}]:
        backups.restore_backup(made, **wish)
        wait(backups.show_backup, made, "available")
    nameless = cloud.volumes.create_volume(size=2)["volume"]["id"]
    wait(cloud.volumes.show_volume, nameless, "available")
    backups.restore_backup(made, volume_id=nameless)
    wait(backups.show_backup, made, "available")
    backups.reset_backup_status(made, "error")
    backups.show_backup(made)
    backups.delete_backup(made)


def about_the_rest(cloud):
    cloud.quotas.show_quota_set(cloud.project)
    cloud.quotas.show_quota_set(cloud.project, params={"usage": True})
    cloud.quotas.show_default_quota_set(cloud.project)
    cloud.quotas.update_quota_set(cloud.project, volumes=100, snapshots=50, backup_gigabytes=-1)
    cloud.quotas.delete_quota_set(cloud.project)
    cloud.classes.show_quota_class_set("default")
    cloud.classes.update_quota_class_set("default", volumes=100)
    cloud.limits.show_limits()
    kind = cloud.types.list_volume_types()["volume_types"]
    cloud.types.show_default_volume_type()
    for one in kind:
        cloud.types.show_volume_type(one["id"])
    cloud.extensions.list_extensions()
    cloud.zones.list_availability_zones()
    cloud.versions.list_versions()
    cloud.versions.show_version("v3")


def main():
    url, user, password, uploaded = sys.argv[1:]
    cloud = Cloud(url, user, password)
    volume = about_volumes(cloud, uploaded)
    about_backups(cloud, volume, about_snapshots(cloud, volume))
    about_the_rest(cloud)
    for failure in failed:
        print(failure)
    print(f"{checked} answers were checked; {len(failed)} failures")
    sys.exit(len(failed) > 0 or checked == 0)


main()
