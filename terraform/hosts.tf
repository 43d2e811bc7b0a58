# Docker hosts, where they are wanted. They sign in to Firestore and to nothing else of ours.

module "docker_hosts" {
  source   = "./modules/docker-hosts"
  for_each = var.docker_hosts

  project_id            = var.project_id
  region                = var.region
  name                  = "${var.name}-${each.key}"
  labels                = var.labels
  pool                  = each.key
  database              = google_firestore_database.this.name
  service_account_email = google_service_account.this["host"].email
  machine_type          = each.value.machine_type
  hosts                 = each.value.hosts
  disk_gb               = each.value.disk_gb
  image                 = each.value.image
  zones                 = each.value.zones
  runner_range          = each.value.runner_range
  subnetwork            = coalesce(each.value.subnetwork, try(google_compute_subnetwork.hosts[0].id, null))
  bucket                = google_storage_bucket.archives.name
  wheel                 = google_storage_bucket_object.controller["wheel"].name
  requirements          = google_storage_bucket_object.controller["requirements"].name

  depends_on = [google_storage_bucket_iam_member.hosts, google_project_iam_member.documents, google_compute_router_nat.hosts]
}

module "own_machines" {
  source = "./modules/own-machines"
  count  = var.own_machines == null ? 0 : 1

  project_id     = var.project_id
  name           = var.name
  hosts          = var.own_machines.hosts
  oidc           = var.own_machines.oidc
  x509           = var.own_machines.x509
  documents_role = google_project_iam_custom_role.documents.id
  own_database   = local.own_database

  depends_on = [google_project_service.this]
}

locals {
  needs_network = anytrue([for hosts in values(var.docker_hosts) : hosts.subnetwork == null])
  controller = length(var.docker_hosts) == 0 ? {} : {
    wheel        = var.controller_wheel
    requirements = "${path.module}/../requirements/controller.txt"
  }
}

resource "google_storage_bucket_object" "controller" {
  for_each = local.controller

  bucket = google_storage_bucket.archives.name
  name   = "controller/${substr(filesha256(each.value), 0, 16)}/${basename(each.value)}"
  source = each.value

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_storage_bucket_iam_member" "hosts" {
  count = length(var.docker_hosts) == 0 ? 0 : 1

  bucket = google_storage_bucket.archives.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.this["host"].member

  condition {
    title      = "${var.name}: the controller"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.archives.name}/objects/controller/\")"
  }
}

# A network of their own, unless they are given one: out through NAT, and nothing in.

resource "google_compute_network" "hosts" {
  count = local.needs_network ? 1 : 0

  project                 = var.project_id
  name                    = "${var.name}-hosts"
  auto_create_subnetworks = false

  depends_on = [google_project_service.this]
}

resource "google_compute_subnetwork" "hosts" {
  count = local.needs_network ? 1 : 0

  project                  = var.project_id
  region                   = var.region
  name                     = "${var.name}-hosts"
  network                  = google_compute_network.hosts[0].id
  ip_cidr_range            = "10.210.0.0/24"
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_router" "hosts" {
  count = local.needs_network ? 1 : 0

  project = var.project_id
  region  = var.region
  name    = "${var.name}-hosts"
  network = google_compute_network.hosts[0].id
}

resource "google_compute_router_nat" "hosts" {
  count = local.needs_network ? 1 : 0

  project                            = var.project_id
  region                             = var.region
  name                               = "${var.name}-hosts"
  router                             = google_compute_router.hosts[0].name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.hosts[0].id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }

  # Every connection of every runner goes through its host's proxy, so one host has many.
  enable_dynamic_port_allocation = true
  min_ports_per_vm               = 512
  max_ports_per_vm               = 32768

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# A shell without an external address: gcloud compute ssh --tunnel-through-iap.
resource "google_compute_firewall" "iap" {
  count = local.needs_network ? 1 : 0

  project       = var.project_id
  name          = "${var.name}-hosts-iap"
  network       = google_compute_network.hosts[0].id
  direction     = "INGRESS"
  source_ranges = ["35.235.240.0/20"]

  target_service_accounts = [google_service_account.this["host"].email]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}
