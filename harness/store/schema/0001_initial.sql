-- The first schema. Times are seconds. Columns called `record`, `software`, `planned`, `state*` hold JSON text of the
-- records in harness/records/; the columns beside them exist to be queried. Tables that a resumed launch rewrites have no
-- key: DuckDB may refuse to delete and insert one key in one transaction ("over-eager constraint checking" in its
-- documentation of indexes), and the one writer checks.

create table machine (
    machine_id varchar primary key,  -- hash of all fields below
    machine_class varchar not null,
    kind varchar not null,
    model varchar not null,
    memory_bytes bigint not null,
    sm_count integer,
    mig boolean,
    ecc boolean,
    power_limit_w double,
    threads integer,
    uuid varchar
);

create table run (
    run_id varchar primary key,
    schema_version integer not null,  -- of the records, not of this file
    created_at varchar not null,      -- ISO 8601, UTC
    status varchar not null check (status in ('running', 'complete', 'interrupted', 'failed')),
    manifest varchar not null,
    manifest_hash varchar not null,
    manifest_toml varchar not null,
    filter varchar,
    launches integer not null,
    seed bigint not null,
    machine_id varchar not null,
    software varchar not null,
    revision varchar,
    dirty boolean,
    source_hash varchar not null,
    imported_from varchar,
    arm varchar,
    paired_with varchar,
    note varchar
);

create table case_ (
    case_key integer primary key,  -- stands for (run_id, case_id) in the tables below
    run_id varchar not null,
    case_id varchar not null,
    position integer not null,     -- in the run's plan
    task varchar not null,
    method varchar not null,
    precision varchar not null,
    p integer,
    m integer not null,
    n integer not null,
    batch integer not null,
    k integer,
    problem varchar not null,
    mode varchar not null,
    options varchar not null,
    expect varchar not null,
    gates boolean not null,
    control boolean not null,
    planned varchar not null,
    unique (run_id, case_id)
);

create table launch (
    run_id varchar not null,
    launch integer not null,  -- 0 is the quality pass
    wall_s double not null    -- worker time after start-up
);

create table process (
    run_id varchar not null,
    launch integer not null,
    position integer not null,
    process_id bigint not null,
    started_at varchar not null,
    startup_s double not null,
    schema_version integer not null,
    state varchar not null
);

create table outcome (
    case_key integer not null,
    launch integer not null,
    process_id bigint not null,
    outcome varchar not null
        check (outcome in ('ok', 'failed', 'oom', 'timeout', 'unsupported', 'nonfinite', 'throttled')),
    error varchar,
    calls_per_sample bigint,
    peak_bytes bigint,
    first_call_s double,
    timed_s double not null,
    wall_s double not null,
    state_before varchar,
    state_after varchar
);

create table sample (
    case_key integer not null,
    launch integer not null,
    position integer not null,
    seconds double not null check (seconds > 0)
);

create table quality (
    case_key integer not null,
    launch integer not null,
    seed bigint not null,
    relative_error double,
    residual double,
    symmetry double,
    orthogonality double,
    nonfinite bigint not null
);

create table comparison (
    comparison_id varchar primary key,
    position bigint not null,  -- order of saving
    candidate varchar not null,
    reference varchar not null,
    kind varchar not null,
    manifest varchar not null,
    machine_class varchar not null,
    record varchar not null    -- without the verdicts
);

create table verdict (
    comparison_id varchar not null,
    position integer not null,
    case_id varchar not null,
    verdict varchar not null,
    gates boolean not null,
    ratio double,
    record varchar not null
);
