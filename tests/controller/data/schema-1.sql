-- SPDX-License-Identifier: GPL-2.0-or-later
-- A database as the first edgeplexd left it.
BEGIN TRANSACTION;
CREATE TABLE allocations (scope INTEGER NOT NULL, kind TEXT NOT NULL, value INTEGER NOT NULL, owner
    TEXT NOT NULL, PRIMARY KEY (scope, kind, value)) STRICT;
CREATE TABLE ce_neighbors (port_id INTEGER NOT NULL REFERENCES ports(id) ON DELETE CASCADE, position
    INTEGER NOT NULL, address TEXT NOT NULL, asn INTEGER NOT NULL, max_prefixes INTEGER NOT NULL,
    PRIMARY KEY (port_id, position)) STRICT;
CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, vpn_id
    INTEGER NOT NULL UNIQUE) STRICT;
INSERT INTO "customers" VALUES(1,'green',100);
CREATE TABLE cvms (site_id INTEGER PRIMARY KEY REFERENCES sites(id), state INTEGER NOT NULL,
    server_id INTEGER REFERENCES servers(id), uuid TEXT NOT NULL, vlan_core INTEGER NOT NULL,
    vlan_inside INTEGER NOT NULL, inside TEXT NOT NULL, started INTEGER NOT NULL, in_fabric INTEGER
    NOT NULL) STRICT;
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL, severity TEXT
    NOT NULL, object TEXT NOT NULL, text TEXT NOT NULL) STRICT;
CREATE TABLE operation_steps (operation_id INTEGER NOT NULL REFERENCES operations(id) ON DELETE
    CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL, state INTEGER NOT NULL, started_ms
    INTEGER NOT NULL, took_ms INTEGER NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (operation_id,
    position)) STRICT;
CREATE TABLE operations (id INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL, object TEXT NOT
    NULL, state INTEGER NOT NULL, undoing INTEGER NOT NULL, wait_s INTEGER NOT NULL, created_ms
    INTEGER NOT NULL, finished_ms INTEGER NOT NULL, error_status INTEGER NOT NULL, error_type TEXT
    NOT NULL, error_detail TEXT NOT NULL) STRICT;
CREATE TABLE port_addresses (port_id INTEGER NOT NULL REFERENCES ports(id) ON DELETE CASCADE,
    position INTEGER NOT NULL, address TEXT NOT NULL, PRIMARY KEY (port_id, position)) STRICT;
CREATE TABLE ports (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, customer_id
    INTEGER NOT NULL REFERENCES customers(id), site_id INTEGER NOT NULL REFERENCES sites(id),
    switch_port TEXT NOT NULL, vlan INTEGER NOT NULL, mtu INTEGER NOT NULL, ce_mac TEXT,
    wanted_server TEXT NOT NULL, UNIQUE (site_id, switch_port, vlan)) STRICT;
INSERT INTO "ports" VALUES(1,'green-a',1,1,'cust1',0,1500,NULL,'');
CREATE TABLE pvms (port_id INTEGER PRIMARY KEY REFERENCES ports(id) ON DELETE CASCADE, state INTEGER
    NOT NULL, server_id INTEGER REFERENCES servers(id), uuid TEXT NOT NULL, label INTEGER NOT NULL,
    vlan_cust INTEGER NOT NULL, vlan_core INTEGER NOT NULL, rd_number INTEGER NOT NULL, inside TEXT
    NOT NULL, started INTEGER NOT NULL, in_cvm INTEGER NOT NULL, in_fabric INTEGER NOT NULL) STRICT;
INSERT INTO "pvms" VALUES(1,1,1,'00000000-0000-4000-8000-000000000002',1000,102,103,1,'100.64.1.10',0,0,0);
CREATE TABLE servers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, site_id
    INTEGER NOT NULL REFERENCES sites(id), uri TEXT NOT NULL UNIQUE, bridge TEXT NOT NULL, trunk
    TEXT NOT NULL, memory_mib INTEGER NOT NULL, UNIQUE (site_id, trunk)) STRICT;
INSERT INTO "servers" VALUES(1,'a-left',1,'qemu:///system?socket=/nonexistent/sock','br0','trunk-left',2048);
CREATE TABLE site_route_reflectors (site_id INTEGER NOT NULL REFERENCES sites(id) ON DELETE CASCADE,
    position INTEGER NOT NULL, address TEXT NOT NULL, PRIMARY KEY (site_id, position)) STRICT;
CREATE TABLE sites (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, asn INTEGER NOT
    NULL, pe_address TEXT NOT NULL UNIQUE, core_port TEXT NOT NULL, core_address TEXT NOT NULL,
    core_gateway TEXT NOT NULL, core_mtu INTEGER NOT NULL, transport_label INTEGER NOT NULL, switch
    TEXT NOT NULL UNIQUE, inside TEXT NOT NULL UNIQUE, label_first INTEGER NOT NULL, label_last
    INTEGER NOT NULL, vlan_first INTEGER NOT NULL, vlan_last INTEGER NOT NULL, pvm_memory_kib
    INTEGER NOT NULL, cvm_memory_kib INTEGER NOT NULL) STRICT;
INSERT INTO "sites" VALUES(1,'a',65000,'10.0.0.1','core','192.0.2.2/30','192.0.2.1',1600,16001,'unix:/nonexistent/edge.mgmt','100.64.1.0/24',1000,1999,100,3999,147464,262152);
CREATE UNIQUE INDEX sites_label ON sites(transport_label) WHERE transport_label <> 3;
CREATE INDEX allocations_owner ON allocations(owner);
CREATE UNIQUE INDEX operations_running ON operations(object) WHERE state = 0;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('sites',1);
INSERT INTO "sqlite_sequence" VALUES('servers',1);
INSERT INTO "sqlite_sequence" VALUES('customers',1);
INSERT INTO "sqlite_sequence" VALUES('ports',1);
COMMIT;
PRAGMA user_version = 1;
